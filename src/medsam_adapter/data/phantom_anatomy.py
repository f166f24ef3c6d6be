"""Where the organs of the phantom lie: implicit functions on one voxel grid, different in every case.

A shape is a float32 array (D, H, W): about the distance in mm to the organ's surface, positive inside. Union is
maximum, intersection minimum, "outside" a minus sign. Coordinates are (z, y, x) in mm of a reference body (the
cavity is 115 by 72 mm in half axes, 120 mm high), x to the patient's left, y to the back, z to the head; each body
stretches them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

LABEL_NAMES = {1: "liver", 2: "spleen", 3: "left kidney", 4: "right kidney", 5: "aorta", 6: "pancreas"}
_CAVITY_YX = (72.0, 115.0)
_HALF_HEIGHT = 60.0
_REFERENCE_FIELD_MM = 336.0


@dataclass
class Anatomy:
    """One body.

    Attributes:
        shapes: {part: signed distance (D, H, W)}, labelled organs under their names.
        labels: (D, H, W) uint8 by `LABEL_NAMES`; one connected piece each, no overlaps.
        voxel_mm: in-plane voxel size in reference mm, the width of a blurred edge.
    """

    shapes: dict[str, np.ndarray]
    labels: np.ndarray
    voxel_mm: float
    bowel: list[np.ndarray] = field(default_factory=list)


class Grid:
    """The coordinates of every voxel, bent by a smooth random displacement, and the shapes drawn on them."""

    def __init__(self, rng: np.random.Generator, shape_zyx: tuple[int, ...], spacing_mm: tuple[float, ...]):
        self.rng, self.shape = rng, shape_zyx
        extent_mm = [size * step for size, step in zip(shape_zyx, spacing_mm, strict=True)]
        # The body fills the field of view whatever its size, so that small grids hold all organs too.
        scale = min(extent_mm[1:]) / _REFERENCE_FIELD_MM
        self.voxel_mm = max(spacing_mm[1:]) / scale
        axes = [
            (np.arange(size) - (size - 1) / 2) * step / scale for size, step in zip(shape_zyx, spacing_mm, strict=True)
        ]
        axes[0] = (np.arange(shape_zyx[0]) + 0.5) / shape_zyx[0] * 2 * _HALF_HEIGHT - _HALF_HEIGHT
        self.z, self.y, self.x = (axis.astype(np.float32) for axis in np.meshgrid(*axes, indexing="ij"))

    def noise(self, cell_mm: float) -> np.ndarray:
        """Smooth noise (D, H, W) of mean 0 and standard deviation 1 with features of about `cell_mm`."""
        extent = (2 * _HALF_HEIGHT, *(size * self.voxel_mm for size in self.shape[1:]))
        knots = [max(3, round(length / cell_mm) + 2) for length in extent]
        coarse = self.rng.standard_normal(knots).astype(np.float32)
        to_z, to_y, to_x = (_smooth_weights(size, count) for size, count in zip(self.shape, knots, strict=True))
        # einsum and not @: the products are small, and BLAS threads waiting for a busy core cost more than they bring.
        rows = np.einsum("zyx,wx->zyw", coarse, to_x)
        planes = np.einsum("zyw,hy->zhw", rows, to_y)
        field_ = np.einsum("zhw,dz->dhw", planes, to_z)
        return (field_ - field_.mean()) / (field_.std() + 1e-6)

    def move(self, shift_zyx: tuple[float, float, float], turn: float) -> None:
        """The patient lies off the middle and a little turned (radians, within the slice)."""
        self.z, self.y, self.x = (
            axis + np.float32(by) for axis, by in zip((self.z, self.y, self.x), shift_zyx, strict=True)
        )
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        self.y, self.x = c * self.y - s * self.x, s * self.y + c * self.x

    def bend(self, stretch_yx: tuple[float, float], amount_mm: float) -> None:
        self.y, self.x = self.y / np.float32(stretch_yx[0]), self.x / np.float32(stretch_yx[1])
        self.z = self.z + amount_mm * self.noise(80)
        self.y, self.x = self.y + amount_mm * self.noise(80), self.x + amount_mm * self.noise(80)

    def ellipsoid(self, centre_zyx: tuple, radii_zyx: tuple, turn: float = 0.0) -> np.ndarray:
        """`turn` in radians within the slice. A radius of infinity makes a cylinder."""
        dz, dy, dx = self.z - centre_zyx[0], self.y - centre_zyx[1], self.x - centre_zyx[2]
        if turn:
            c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            dy, dx = c * dy - s * dx, s * dy + c * dx
        rz, ry, rx = (np.float32(radius) for radius in radii_zyx)
        return (1 - np.sqrt((dz / rz) ** 2 + (dy / ry) ** 2 + (dx / rx) ** 2)) * np.sqrt(ry * rx)

    def tube(self, points_zyx: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """A tube along a polyline, its radius going from point to point."""
        best = np.full(self.shape, -1e3, np.float32)
        for (start, end), (r0, r1) in zip(
            zip(points_zyx[:-1], points_zyx[1:], strict=True), zip(radii[:-1], radii[1:], strict=True), strict=True
        ):
            step = end - start
            dz, dy, dx = self.z - np.float32(start[0]), self.y - np.float32(start[1]), self.x - np.float32(start[2])
            along = (dz * np.float32(step[0]) + dy * np.float32(step[1]) + dx * np.float32(step[2])) / np.float32(
                step @ step
            )
            along = np.clip(along, 0, 1)
            away = (dz - along * step[0]) ** 2 + (dy - along * step[1]) ** 2 + (dx - along * step[2]) ** 2
            best = np.maximum(best, np.float32(r0) + along * np.float32(r1 - r0) - np.sqrt(away))
        return best.astype(np.float32)


def _smooth_weights(size: int, num_knots: int) -> np.ndarray:
    """(size, num_knots): each voxel's Gaussian weights on evenly spaced knots."""
    where = np.linspace(0.5, num_knots - 1.5, size)[:, None]
    return np.exp(-(((where - np.arange(num_knots)) / 0.7) ** 2)).astype(np.float32)


def build_anatomy(grid: Grid) -> Anatomy:
    """Draws one body. The random numbers come from `grid.rng`."""
    shapes = _body(grid)
    shapes |= _skeleton_and_muscle(grid, shapes["body"])
    shapes |= _organs(grid, shapes["cavity"], shapes["lung"])
    labels = np.zeros(grid.shape, np.uint8)
    for value, name in LABEL_NAMES.items():
        mask = shapes[name] > 0
        pieces, count = ndimage.label(mask)
        if count > 1:  # a carved-off crumb becomes fat
            largest = np.bincount(pieces.ravel())[1:].argmax() + 1
            shapes[name] = np.where(mask & (pieces != largest), np.float32(-5), shapes[name])
            mask = pieces == largest
        labels[mask] = value
    # No loop reaches into an organ's blurred edge: gas there would darken the organ itself.
    room = np.minimum(-shapes["taken"] - 2, shapes["cavity"] - 3)
    return Anatomy(shapes, labels, grid.voxel_mm, [np.minimum(loop, room) for loop in _bowel(grid)])


def _body(grid: Grid) -> dict[str, np.ndarray]:
    rng = grid.rng
    half_y, half_x = rng.uniform(92, 122), rng.uniform(125, 158)
    # Big people carry more fat: under the skin, not only inside.
    fat = 6 + 24 * np.clip((half_x - 125) / 33 * 0.6 + rng.uniform(-0.1, 0.45), 0, 1)
    wall = rng.uniform(8, 13)
    table = 3.5 - np.abs(grid.y - np.float32(half_y + 16) + (grid.x / 150) ** 2 * 22)
    side = min(12.0, 166 - half_x)
    grid.move((rng.uniform(-9, 9), rng.uniform(-5, 9), rng.uniform(-side, side)), rng.uniform(-0.08, 0.08))
    radius = (np.abs(grid.x / half_x) ** 2.3 + np.abs(grid.y / half_y) ** 2.3) ** np.float32(1 / 2.3)
    body = (1 - radius) * np.float32(np.sqrt(half_x * half_y)) + 1.5 * grid.noise(90)
    rim = body - fat * (0.8 + 0.35 * np.abs(grid.x / half_x)) - 1.5 * grid.noise(60)
    # The spine and its muscles take room behind the cavity, so its middle lies in front of the body's.
    grid.y = grid.y + np.float32(9)
    grid.bend(((half_y - fat - wall - 9) / _CAVITY_YX[0], (half_x - fat - wall) / _CAVITY_YX[1]), 4.5)
    cavity = np.minimum(rim - wall, grid.ellipsoid((0, -2, 0), (np.inf, 76, 118)))
    # The lung bases reach down behind and beside the diaphragm's dome.
    dome = np.sqrt((grid.y / 72) ** 2 + (grid.x / 115) ** 2) * 90
    top = rng.uniform(15, 40)
    lung = np.minimum(cavity - 2, dome - 95 + np.clip(grid.z - top, -40, 60) * 0.62 + 0.2 * grid.y)
    lung = np.minimum(lung, -grid.ellipsoid((0, 75, 0), (np.inf, 52, 27)))  # the spine parts left from right
    return {
        "body": body,
        "table": table,
        "wall": rim,
        "behind": np.minimum(rim - wall - 1, -cavity - 1),
        "cavity": cavity,
        "lung": lung.astype(np.float32),
    }


def _skeleton_and_muscle(grid: Grid, body: np.ndarray) -> dict[str, np.ndarray]:
    rng = grid.rng
    y = 42 + rng.uniform(-4, 4)
    size = rng.uniform(0.9, 1.12)
    vertebra = grid.ellipsoid((0, y, 0), (np.inf, 16 * size, 21 * size))
    canal = grid.ellipsoid((0, y + 22, 0), (np.inf, 7, 10))
    phase = rng.uniform(0, 34)
    in_period = (grid.z + phase) % 34
    disc = np.minimum(vertebra, 4 - np.abs(in_period - 17))
    arch = np.minimum(grid.ellipsoid((0, y + 22, 0), (np.inf, 13, 17)), -canal)
    process = np.maximum(
        grid.ellipsoid((0, y + 40, 0), (np.inf, 14, 4)),
        np.minimum(grid.ellipsoid((0, y + 20, 0), (np.inf, 5, 36)), 9 - np.abs(in_period - 34 * (in_period > 17))),
    )
    paraspinal = [grid.ellipsoid((0, y + 28, side * 32), (np.inf, 19, 26), side * 0.25) for side in (-1, 1)]
    width = np.clip(1 - grid.z / 120, 0.55, 1.4)
    psoas = [grid.ellipsoid((0, y + 6, side * 31), (np.inf, 14, 10)) - 8 * (1 - width) for side in (-1, 1)]
    # Ribs run downwards round the wall, so a slice cuts several of them at different angles.
    ring = np.sqrt((grid.y / _CAVITY_YX[0]) ** 2 + (grid.x / _CAVITY_YX[1]) ** 2)
    angle = np.arctan2(np.abs(grid.x) / _CAVITY_YX[1], grid.y / _CAVITY_YX[0])  # 0 at the back, pi at the front
    step = rng.uniform(24, 30)
    height = (grid.z + angle * rng.uniform(46, 62) + rng.uniform(0, step)) % step - step / 2
    rib = 5.0 - np.sqrt((height * 0.6) ** 2 + ((ring - 1.07) * 85) ** 2)
    rib = np.where((angle < 2.3) & (angle > 0.45) & (grid.z > -35 - 12 * np.cos(angle)), rib, np.float32(-20))
    return {
        "vertebra": vertebra,
        "disc": disc,
        "canal": canal,
        "arch": np.minimum(np.maximum(arch, np.minimum(process, -canal)), body - 7),
        "muscle": np.minimum(np.maximum.reduce(paraspinal + psoas), body - 7),
        "rib": rib.astype(np.float32),
    }


def _organs(grid: Grid, cavity: np.ndarray, lung: np.ndarray) -> dict[str, np.ndarray]:
    """The labelled organs and their neighbours; what is named first keeps the place where two would overlap."""
    rng = grid.rng

    def near(*values: float, by: float) -> tuple[float, ...]:
        return tuple(value + rng.uniform(-by, by) for value in values)

    def sized(*values: float, by: float = 0.14) -> tuple[float, ...]:
        common = rng.uniform(1 - by, 1 + by)
        return tuple(value * common * rng.uniform(1 - by / 2, 1 + by / 2) for value in values)

    sway = 5 * np.sin(grid.z / 55 + np.float32(rng.uniform(0, 6.3)))
    aorta_r = rng.uniform(9.5, 13)
    aorta_y, aorta_x = near(14, 9, by=3)
    aorta = aorta_r - np.hypot(grid.y - aorta_y, grid.x - aorta_x - sway) + 0.5 * grid.noise(40)
    cava_y, cava_x = near(20, -22, by=3)
    cava = grid.ellipsoid((0, cava_y, cava_x), (np.inf, *sized(8.5, 12)))
    shapes = {"aorta": aorta, "cava": np.minimum(cava, -aorta - 1)}
    for name, side, height in (("left kidney", 1, -8), ("right kidney", -1, -17)):
        z, y, x = near(height, 38, side * 64, by=8)
        rz, ry, rx = sized(44, 25, 24)
        kidney = grid.ellipsoid((z, y, x), (rz, ry, rx), side * rng.uniform(0.1, 0.6)) + 1.6 * grid.noise(32)
        hilum = grid.ellipsoid((z, y - 5, x - side * (rx + 1)), (rz * 0.34, 9, rng.uniform(12, 17)))
        shapes[name] = np.minimum(kidney, -hilum)
        shapes[name + " pelvis"] = grid.ellipsoid((z, y - 2, x - side * rx * 0.4), (rz * 0.5, 9, rx * 0.55))
    z, y, x = near(20, 18, 88, by=9)
    rz, ry, rx = sized(40, 44, 32)
    spleen = grid.ellipsoid((z, y, x), (rz, ry, rx), rng.uniform(-0.35, 0.1)) + 2 * grid.noise(40)
    shapes["spleen"] = np.minimum(spleen, -grid.ellipsoid((z - 6, y - 6, x - rx - 13), (rz * 1.3, ry * 0.8, 24)))
    points = np.array(
        [near(-24, 10, -34, by=7), near(-12, -9, -10, by=6), near(0, -7, 24, by=8), near(12, 12, 62, by=9)]
    )
    radii = np.array(sized(15, 11, 11.5, 10))
    shapes["pancreas"] = grid.tube(points, radii) + 2.2 * grid.noise(18)
    z, y, x = near(22, -30, 52, by=8)
    shapes["stomach"] = grid.ellipsoid((z, y, x), sized(44, 34, 44, by=0.22), rng.uniform(-0.5, 0.4)) + 3 * grid.noise(
        45
    )
    shapes["gallbladder"] = grid.ellipsoid(
        near(-14, -30, -48, by=7), sized(20, 15, 11, by=0.25), rng.uniform(-0.5, 0.5)
    )
    right = grid.ellipsoid(near(12, -4, -64, by=5), sized(58, 66, 58))
    left = grid.ellipsoid(near(24, -42, -6, by=11), sized(36, 30, 62))
    shapes["liver"] = np.maximum(right, left) + 3 * grid.noise(50)
    taken = lung + 2.0
    for name in (
        "aorta",
        "cava",
        "left kidney",
        "right kidney",
        "spleen",
        "pancreas",
        "stomach",
        "gallbladder",
        "liver",
    ):
        own = np.minimum.reduce([shapes[name], -taken - 0.6, cavity - 1.0])
        shapes[name] = own.astype(np.float32)
        taken = np.maximum(taken, own)
    return shapes | _liver_vessels(grid) | {"taken": taken}


def _liver_vessels(grid: Grid) -> dict[str, np.ndarray]:
    """Portal vein with branches from the hilum, hepatic veins towards the cava below the diaphragm."""
    rng = grid.rng
    hilum = np.array([2.0, -8, -32]) + rng.uniform(-5, 5, 3)
    confluence = np.array([34.0, 14, -26]) + rng.uniform(-4, 4, 3)
    portal = grid.tube(np.array([[-16.0, 2, -14], hilum]), np.array([7.5, 7.0]))
    for target in ((20, 18, -92), (-18, 5, -88), (30, -40, -70), (28, -44, -10), (5, -42, -76)):
        end = np.array(target) + rng.uniform(-10, 10, 3)
        middle = (hilum + end) / 2 + rng.uniform(-9, 9, 3)
        portal = np.maximum(portal, grid.tube(np.array([hilum, middle, end]), np.array([5.5, 4.2, 2.4])))
    hepatic = np.full(grid.shape, -50, np.float32)
    for target in ((6, 4, -98), (14, -38, -52), (22, -50, -8)):
        end = np.array(target) + rng.uniform(-9, 9, 3)
        hepatic = np.maximum(hepatic, grid.tube(np.array([confluence, end]), np.array([6.0, 2.6])))
    return {"portal vein": portal, "hepatic veins": hepatic}


def _bowel(grid: Grid) -> list[np.ndarray]:
    """Loops in front and below; the colon at both sides."""
    rng = grid.rng
    loops = [
        grid.ellipsoid(
            (rng.uniform(-65, -2), rng.uniform(-58, 6), rng.uniform(-82, 82)),
            (rng.uniform(14, 34), rng.uniform(11, 18), rng.uniform(13, 24)),
            rng.uniform(-0.8, 0.8),
        )
        + 1.5 * grid.noise(25)
        for _ in range(rng.integers(7, 13))
    ]
    for side, top in ((-1, rng.uniform(-40, -12)), (1, rng.uniform(-15, 20))):
        colon = grid.ellipsoid((0, rng.uniform(0, 22), side * rng.uniform(86, 97)), (np.inf, *(rng.uniform(14, 20, 2))))
        loops.append(np.minimum(colon, (top - grid.z) / 2) + 1.5 * grid.noise(25))
    return loops
