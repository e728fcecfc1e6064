"""From the times of blocks and networks to an Estimate of a whole network, and its memory and energy."""
