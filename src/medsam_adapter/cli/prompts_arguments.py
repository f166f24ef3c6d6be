"""Points and boxes as they are typed on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medsam_adapter.data.sample import Scan
    from medsam_adapter.prompts.types import ObjectPrompt


def prompts_of(
    point: list[str] | None,
    negative_point: list[str] | None,
    box: list[str] | None,
    text: list[str] | None,
    scan: Scan,
) -> list[ObjectPrompt]:
    """One object from clicks and boxes, with a text or without; or one object for each text.

    Args:
        point, negative_point: "x,y" for a picture, "x,y,z" for a volume: voxels (i, j, k) of the file, from 0.
        box: "x0,y0,x1,y1", for a volume "x0,y0,x1,y1,z".
        text: sentences.

    Raises:
        PromptError: not these numbers, outside the scan, no prompt at all, or several texts beside clicks.
    """
    from medsam_adapter.errors import PromptError
    from medsam_adapter.prompts.types import ObjectPrompt

    prompt = ObjectPrompt()
    for numbers, label in [(t, 1) for t in point or []] + [(t, 0) for t in negative_point or []]:
        prompt.points.append(_numbers(numbers, scan.is_volume, "--point"))
        prompt.labels.append(label)
    for numbers in box or []:
        x0, y0, x1, y1, z = _box_numbers(numbers, scan.is_volume)
        prompt.boxes.append((x0, y0, z, x1, y1, z))
    texts = list(text or [])
    if not prompt.points and not prompt.boxes and texts:
        return [ObjectPrompt(text=each) for each in texts]
    if len(texts) > 1:
        raise PromptError(
            "clicks and boxes belong to one object", expected="one --text beside them", found=f"{len(texts)} texts",
            hint="give the clicks of each object in a call of its own, or the texts alone",
        )  # fmt: skip
    prompt.text = texts[0] if texts else ""
    _check_before_encoding(prompt, scan.shape_zyx, scan.is_volume)
    return [prompt]


def _check_before_encoding(prompt, shape_zyx: tuple[int, int, int], is_volume: bool) -> None:
    """What the predictor would refuse too, but only after minutes of encoding."""
    from medsam_adapter.errors import PromptError
    from medsam_adapter.prompts.checks import check_point

    if not prompt.points and not prompt.boxes:
        raise PromptError(
            "there is no prompt", expected="--point, --box or --text", found="none", hint="click into the object"
        )
    for point in [*prompt.points, *(box[:3] for box in prompt.boxes), *(box[3:] for box in prompt.boxes)]:
        check_point(point[: 3 if is_volume else 2], shape_zyx, is_volume)


def _numbers(text: str, is_volume: bool, name: str) -> tuple[float, ...]:
    from medsam_adapter.errors import PromptError

    wanted = 3 if is_volume else 2
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != wanted:
        raise PromptError(
            f"{name} is not usable",
            expected="x,y,z for a volume" if is_volume else "x,y for a picture",
            found=text,
            hint="voxels counted from 0, without spaces",
        )
    return values if is_volume else (*values, 0.0)


def _box_numbers(text: str, is_volume: bool) -> tuple[float, ...]:
    from medsam_adapter.errors import PromptError

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != (5 if is_volume else 4):
        raise PromptError(
            "--box is not usable", expected="x0,y0,x1,y1,z for a volume" if is_volume else "x0,y0,x1,y1", found=text
        )
    return values if is_volume else (*values, 0.0)
