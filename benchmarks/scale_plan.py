"""The sums of docs/scale.md: `python -m benchmarks.scale_plan`. Arithmetic only, nothing is measured.

Operations are counted as two for a multiply-add, for real tokens (no window padding), of the encoder alone: a decoder
call is below 1 % of it at 1024 px. Architectures are Meta's (https://arxiv.org/abs/2304.02643).
"""

from __future__ import annotations

from dataclasses import dataclass

PATCH, WINDOW, NECK = 16, 14, 256


@dataclass(frozen=True)
class Encoder:
    """Width C, blocks, and those with global attention."""

    name: str
    width: int
    blocks: int
    global_blocks: int = 4

    def gflop(self, image_size: int) -> float:
        """Forward, one image."""
        tokens = (image_size // PATCH) ** 2
        linear = 2 * 12 * self.width**2 * tokens  # qkv 3, projection 1, MLP 8
        window = min(WINDOW**2, tokens)
        attention = 4 * self.width * tokens  # times the keys that a query sees
        blocks = self.blocks * linear + attention * (
            self.global_blocks * tokens + (self.blocks - self.global_blocks) * window
        )
        neck = 2 * tokens * (self.width * NECK + 9 * NECK**2)
        return (blocks + neck + 2 * tokens * 3 * PATCH**2 * self.width) / 1e9

    def embedding_mb(self, image_size: int, bytes_each: int = 2) -> float:
        """Of one image, in bf16."""
        return NECK * (image_size // PATCH) ** 2 * bytes_each / 1e6


@dataclass(frozen=True)
class Device:
    """Peak of dense bf16 products, and the share of it that is assumed to be reached."""

    name: str
    peak_tflops: float
    share: float

    def hours(self, gflop: float) -> float:
        return gflop * 1e9 / (self.peak_tflops * 1e12 * self.share) / 3600


VIT_B, VIT_H = Encoder("ViT-B", 768, 12), Encoder("ViT-H", 1280, 32)
# Peaks: NVIDIA's data sheets (dense bf16). The shares are assumptions: replace them by what benchmarks.speed reaches.
DEVICES = (Device("A100", 312, 0.40), Device("H100", 989, 0.35))
IMAGES, EPOCHS = 1_350_000, 100
VOLUMES, SLICES = 100_000, 200
VOXELS_A_SLICE, BYTES_A_VOXEL = 512 * 512, 2
GUNZIP_MB_A_SECOND = 150.0


def pretraining() -> list[list[str]]:
    """RadImageNet, every image 100 times: forward and backward of a fully trained encoder are three forwards."""
    rows = []
    for encoder, size in ((VIT_B, 256), (VIT_B, 1024), (VIT_H, 256), (VIT_H, 1024)):
        total = 3 * encoder.gflop(size) * IMAGES * EPOCHS
        row = [encoder.name, f"{size}", f"{encoder.gflop(size):,.0f}", f"{total * 1e9:.1e}"]
        rows.append(row + [f"{device.hours(total):,.0f}" for device in DEVICES])
    return rows


def prediction() -> list[list[str]]:
    """100,000 volumes: all slices encoded (an object that is carried reaches fewer)."""
    rows = []
    for encoder, size in ((VIT_B, 256), (VIT_B, 1024), (VIT_H, 1024)):
        total = encoder.gflop(size) * VOLUMES * SLICES
        row = [encoder.name, f"{size}", f"{total * 1e9:.1e}", f"{encoder.embedding_mb(size) * SLICES / 1e3:.2f}"]
        rows.append(row + [f"{device.hours(total):,.0f}" for device in DEVICES])
    return rows


def data() -> list[list[str]]:
    """What is read, unpacked and written."""
    raw_gb = VOLUMES * SLICES * VOXELS_A_SLICE * BYTES_A_VOXEL / 1e9
    cores_hours = raw_gb * 1000 / GUNZIP_MB_A_SECOND / 3600
    return [
        ["voxels of 100,000 volumes (200 x 512 x 512, int16)", f"{raw_gb / 1000:,.1f} TB"],
        ["read, at half by gzip", f"{raw_gb / 2000:,.1f} TB"],
        [f"unpacking at {GUNZIP_MB_A_SECOND:.0f} MB/s a core", f"{cores_hours:,.0f} core hours"],
        ["masks, about 0.2 MB each by gzip", f"{VOLUMES * 0.2 / 1000:,.0f} GB"],
        ["manifest, about 300 bytes a case", f"{VOLUMES * 300 / 1e6:,.0f} MB"],
        ["RadImageNet, 1.35 M PNG of about 25 kB", f"{IMAGES * 25e3 / 1e9:,.0f} GB"],
        ["the same decoded, 256 px grey", f"{IMAGES * 256 * 256 / 1e9:,.0f} GB"],
    ]


def _table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def main() -> None:
    """Print the tables of docs/scale.md."""
    hours = [f"{device.name} hours ({device.share:.0%} of {device.peak_tflops:,.0f} TFLOP/s)" for device in DEVICES]
    _table("Pre-training", ["encoder", "px", "GFLOP an image", "FLOP in all", *hours], pretraining())
    _table("Prediction", ["encoder", "px", "FLOP in all", "embeddings of a volume, GB", *hours], prediction())
    _table("Bytes", ["what", "how much"], data())


if __name__ == "__main__":
    main()
