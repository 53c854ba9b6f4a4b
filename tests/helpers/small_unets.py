"""A U-Net that trains in an instant."""

from __future__ import annotations


def small_unet(size: int, channels: int) -> dict[str, object]:
    """Configuration of a diffusers UNet2DModel of two resolutions, on (channels, size, size)."""
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 1,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
