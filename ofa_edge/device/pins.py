"""The packages that `devices setup` brings: every wheel with its sha256.

For each CPython the newest release that has wheels for it, on x86-64 and 64-bit Arm; for 32-bit Arm the only one there
is. Both runtimes import nothing but numpy beside themselves (what else their metadata names is for converting and
quantizing), so a site is these files and no resolver has a say. To move to a newer release: replace its lines by what
`pip download --no-deps --platform ...` brings for each target, and run `make lab`.
"""

from __future__ import annotations

# Package, version and platforms of a release; below it interpreter, machine and sha256 of each wheel.
_RELEASES = """
ai_edge_litert 2.1.0 manylinux_2_27_{machine}
  cp39  aarch64 a9ede3c293151a74adfa12bac8b8ce87ec01dc586ec3cea122ac714650c841bf
  cp39  x86_64  422700fce3acf072bc0d58d7863ec16631f08b1daddefc87c008de6e4cda3167
ai_edge_litert 2.3.0 manylinux_2_27_{machine}
  cp310 aarch64 a72fc35d66c1d8b17f52b195bfb39b89aa839d39ea6e0d57fb88d77ac5aeb8c9
  cp310 x86_64  e104683ee0dead1243002a218637cc435c36fdb01103799335027252314e727b
  cp311 aarch64 853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae
  cp311 x86_64  1f15078a6725d2357d9de9221664c29afa0545d807559c5f7199ce5e40b96b23
  cp312 aarch64 9891611b23a87cc2ace60e4b5ee9a2ee6f0fb7f395f009470961ae6e6310e1b8
  cp312 x86_64  dc9f56c23e0dcf182b6c35f23fbb102ed048296588882b806d5eff7654c04c88
  cp313 aarch64 2ab71e4f5dfa65b3882634b42755f455f3e7415630d720200bd792733e15e257
  cp313 x86_64  985ac3823fe1d5d6a04cf5f613cc2adf98a9c8a456af0b5efa8d9ac6b118ea14
  cp314 aarch64 899b41423b30f3cef1ce8a361443092fdeefc4d536132511634fa21548347b0a
  cp314 x86_64  695f5164b66ebdb0a3bbb4edc4d7024e87c65a0e417d48d0a2db2503bc01b78d
numpy 2.0.2 manylinux_2_17_{machine}.manylinux2014_{machine}
  cp39  aarch64 1e795a8be3ddbac43274f18588329c72939870a16cae810c2b73461c40718ab1
  cp39  x86_64  f26b258c385842546006213344c50655ff1555a9338e2e5e02a0756dc3e803dd
numpy 2.2.6 manylinux_2_17_{machine}.manylinux2014_{machine}
  cp310 aarch64 efd28d4e9cd7d7a8d39074a4d44c63eda73401580c5c76acda2ce969e0a38e83
  cp310 x86_64  fc7b73d02efb0e18c000e9ad8b83480dfcd5dfd11065997ed4c6747470ae8915
numpy 2.4.6 manylinux_2_27_{machine}.manylinux_2_28_{machine}
  cp311 aarch64 0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47
  cp311 x86_64  89cd468399cfd2504718f0ba50e410dca55a170b61a02ad92bb18c8a65186e93
  cp312 aarch64 5f9fb9157b4ce2971008323afe46053787b526ef624fea915b261468a8421a0f
  cp312 x86_64  90f9849678c75fe7afa2d348ac842c168b0a4d3d61919687216dfc547976d853
  cp313 aarch64 72fbe16c6fac95aedf5937fa873445cec2110be35d8a4e9433d7501fd98dae6b
  cp313 x86_64  a7830bab239b79cda9c08c2da014761cafb48da6150e1da17ac06283f43b6089
  cp314 aarch64 40fdc1ae7125e518ea98e53e69a4ebc27e1fd50510c47b7ea130cf21e5e1d42b
  cp314 x86_64  a2c306dea656c12c68f51f4cea133cbe78ca7435eb28c735eac1d3ebe73be6e8
onnxruntime 1.19.2 manylinux_2_27_{machine}.manylinux_2_28_{machine}
  cp39  aarch64 df2a94179a42d530b936f154615b54748239c2908ee44f0d722cb4df10670f68
  cp39  x86_64  fae4b4de45894b9ce7ae418c5484cbf0341db6813effec01bb2216091c52f7fb
onnxruntime 1.23.2 manylinux_2_27_{machine}.manylinux_2_28_{machine}
  cp310 aarch64 8f7d1fe034090a1e371b7f3ca9d3ccae2fabae8c1d8844fb7371d1ea38e8e8d2
  cp310 x86_64  4ca88747e708e5c67337b0f65eed4b7d0dd70d22ac332038c9fc4635760018f7
onnxruntime 1.31.1 manylinux_2_28_{machine}
  cp311 aarch64 da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3
  cp311 x86_64  5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f
  cp312 aarch64 0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc
  cp312 x86_64  1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536
  cp313 aarch64 dcaedc50333876f3829ab966b242147f0e548229e29c36fe44622ecf748c25ee
  cp313 x86_64  74a6a52994616c4d18b33db1e13c226333a70a6ba07480a5cab9c2a50dff1430
  cp314 aarch64 c878686b75cade1ed59131aa018ab004b1e64368b0d54041912450b9642cf04f
  cp314 x86_64  c20d7f15d84427db070b163f78c2c7146cc93edd6113fa7327671259a24184fe
tflite_runtime 2.14.0 manylinux_2_34_{machine}
  cp39  armv7l  eca7672adca32727bbf5c0f1caf398fc17bbe222f2a684c7a2caea6fc6767203
  cp310 armv7l  7fe33f763263d1ff2733a09945a7547ab063d8bc311fd2a1be8144d850016ad3
  cp311 armv7l  c4e66a74165b18089c86788400af19fa551768ac782d231a9beae2f6434f7949
"""


def _wheels(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    release: list[str] = []
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            release = line.split()
            continue
        python, machine, sha256 = line.split()
        package, version, platforms = release
        found[f"{package}-{version}-{python}-{python}-{platforms.format(machine=machine)}.whl"] = sha256
    return found


WHEELS: dict[str, str] = _wheels(_RELEASES)
"""File name of a wheel -> its sha256."""
