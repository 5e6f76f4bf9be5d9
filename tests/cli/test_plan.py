from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dfosd_core.cli.plan import Plan, make_plan
from dfosd_core.errors import ConfigError, ImageFileError
from dfosd_core.image_files import FORMAT_NAMES
from dfosd_core.settings import UpscaleSettings


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(
    *inputs: str, output: str | None = None, overwrite: bool = False, form: str | None = None, **settings: Any
) -> Plan:
    return make_plan(inputs, output, UpscaleSettings(**settings), overwrite=overwrite, form=form)


def pairs(made: Plan) -> list[tuple[str, str]]:
    return [(job.source.as_posix(), job.target.as_posix()) for job in made.jobs]


def test_result_lies_beside_the_input_and_tells_its_size() -> None:
    touch("in/a.jpg")
    assert pairs(plan("in/a.jpg")) == [("in/a.jpg", "in/a_x4.png")]
    assert pairs(plan("in/a.jpg", scale=1.5)) == [("in/a.jpg", "in/a_x1.5.png")]
    assert pairs(plan("in/a.jpg", long_edge=100)) == [("in/a.jpg", "in/a_long100.png")]
    assert pairs(plan("in/a.jpg", short_edge=90)) == [("in/a.jpg", "in/a_short90.png")]
    assert pairs(plan("in/a.jpg", megapixels=1.5)) == [("in/a.jpg", "in/a_1.5mp.png")]
    assert pairs(plan("in/a.jpg", width=90, height=60)) == [("in/a.jpg", "in/a_90x60crop.png")]


def test_folder_gives_all_images_below_it_in_order_without_hidden_ones() -> None:
    touch("in/b.PNG", "in/a.jpg", "in/._a.jpg", "in/.git/x.png", "in/__MACOSX/y.png", "in/deeper/c.png", "in/a/d.png")
    assert pairs(plan("in")) == [
        ("in/a/d.png", "in/a/d_x4.png"),
        ("in/a.jpg", "in/a_x4.png"),
        ("in/b.PNG", "in/b_x4.png"),
        ("in/deeper/c.png", "in/deeper/c_x4.png"),
    ]


def test_subfolders_are_kept_below_the_output() -> None:
    touch("in/a.png", "in/deep/er/a.png", "in/out/old.png")
    made = plan("in", output="in/out")
    assert pairs(made) == [("in/a.png", "in/out/a_x4.png"), ("in/deep/er/a.png", "in/out/deep/er/a_x4.png")]
    assert Path("in/out/deep/er").is_dir()
    assert pairs(plan("in/**/*.png", output="new")) == [
        ("in/a.png", "new/a_x4.png"),
        ("in/deep/er/a.png", "new/deep/er/a_x4.png"),
        ("in/out/old.png", "new/out/old_x4.png"),
    ]


def test_what_is_no_image_is_said_and_what_programs_leave_is_not() -> None:
    touch("in/a.png", "in/b.jxl", "in/c.DNG", "in/notes.txt", "in/Thumbs.db", "in/desktop.ini", "in/.DS_Store")
    assert plan("in").notes == [
        "'in/b.jxl', 'in/c.DNG', 'in/notes.txt': left out, no kind of image that is read.",
    ]
    touch(*(f"in/{n}.txt" for n in range(9)))
    assert plan("in").notes[0].endswith("'in/4.txt' and 7 more: left out, no kind of image that is read.")


def test_formats_of_a_whole_folder() -> None:
    touch("in/a.JPG", "in/b.heic", "in/c.png", "in/d.jfif", "in/e.tif")
    made = {form: [target.split(".")[-1] for _, target in pairs(plan("in", form=form))] for form in FORMAT_NAMES}
    assert made.pop("same") == ["jpg", "png", "png", "jpg", "tif"]
    assert made == {form: [form] * 5 for form in ("png", "jpg", "webp", "avif", "tiff")}
    with pytest.raises(ConfigError, match=r"^-o b\.webp says the format already\. Leave --format out"):
        plan("in/a.JPG", output="b.webp", form="png")


def test_patterns_are_expanded_also_into_folders() -> None:
    touch("in/b.png", "in/deeper/c.png", "in/c.txt")
    assert [source for source, _ in pairs(plan("in/*"))] == ["in/b.png"]
    assert [source for source, _ in pairs(plan("in/**/*.png"))] == ["in/b.png", "in/deeper/c.png"]


def test_name_that_looks_like_a_pattern_is_a_name_if_it_exists() -> None:
    touch("a[1].png")
    assert pairs(plan("a[1].png")) == [("a[1].png", "a[1]_x4.png")]


def test_output_is_a_folder_or_for_one_image_a_file() -> None:
    touch("a.jpg", "b.jpg")
    assert pairs(plan("a.jpg", output="new/c.webp")) == [("a.jpg", "new/c.webp")]
    assert pairs(plan("a.jpg", "b.jpg", output="out")) == [
        ("a.jpg", "out/a_x4.png"),
        ("b.jpg", "out/b_x4.png"),
    ]
    assert pairs(plan("a.jpg", output="v1.2/")) == [("a.jpg", "v1.2/a_x4.png")]
    assert Path("out").is_dir()
    assert pairs(plan("a.jpg", output="v1.2")) == [("a.jpg", "v1.2/a_x4.png")]


def test_one_file_for_many_images_is_refused() -> None:
    touch("in/a.jpg", "in/b.jpg")
    with pytest.raises(ConfigError) as caught:
        plan("in", output="c.png")
    assert str(caught.value) == "-o c.png names one file, but there are 2 images. Name a folder instead."


def test_unknown_format_is_refused() -> None:
    touch("a.jpg")
    with pytest.raises(ConfigError) as caught:
        plan("a.jpg", output="c.jxl")
    assert str(caught.value) == (
        "-o c.jxl: expected a name ending in .png, .jpg, .jpeg, .webp, .avif, .tif, .tiff, .gif, .bmp, found '.jxl'. "
        "To name a new folder, end it with a slash."
    )


def test_folder_that_cannot_be_made_is_named() -> None:
    touch("a.jpg", "file")
    with pytest.raises(ImageFileError, match="^The folder 'file/out' cannot be made: (Not a directory|File exists)"):
        plan("a.jpg", output="file/out/")


def test_what_is_not_there_is_named_and_the_rest_goes_on() -> None:
    touch("a.jpg", "empty/notes.txt")
    made = plan("none.png", "a.jpg", "empty", "*.bmp", "x" * 5000)
    assert pairs(made) == [("a.jpg", "a_x4.png")]
    assert made.problems[:3] == [
        "There is no file or folder 'none.png'.",
        "There is no image in the folder 'empty' (.png, .jpg, .jpeg, .jpe, .jfif, .webp, .avif, .heic, "
        ".heif, .tif, .tiff, .gif, .bmp).",
        "No image matches '*.bmp'.",
    ]
    assert made.problems[3].startswith("There is no file or folder 'xxx")


def test_existing_result_is_not_touched() -> None:
    touch("a.jpg", "a_x4.png")
    made = plan("a.jpg")
    assert made.jobs == []
    assert made.problems == ["'a_x4.png' exists and was not touched. Use --overwrite to replace it."]
    assert pairs(plan("a.jpg", overwrite=True)) == [("a.jpg", "a_x4.png")]


def test_existing_results_of_many_are_left_out_with_one_note() -> None:
    touch("in/a.jpg", "in/b.jpg", "in/c.jpg", "out/a_x4.png", "out/c_x4.png")
    note = "2 of 3 results exist and were not touched. Use --overwrite to replace them."
    for inputs in (["in"], ["in/*.jpg"], ["in/a.jpg", "in/b.jpg", "in/c.jpg"]):
        made = plan(*inputs, output="out")
        assert pairs(made) == [("in/b.jpg", "out/b_x4.png")]
        assert (made.problems, made.notes) == ([], [note])
    assert len(plan("in", output="out", overwrite=True).jobs) == 3


def test_shares_are_the_same_whatever_results_there_are_by_now() -> None:
    touch(*(f"in/{n}.jpg" for n in range(5)))
    of_both = [make_plan(["in"], None, UpscaleSettings(), overwrite=False, share=(rank, 2)) for rank in range(2)]
    assert [[job.source.stem for job in each.jobs] for each in of_both] == [["0", "2", "4"], ["1", "3"]]
    touch("in/0_x4.png", "in/3_x4.png")
    later = [make_plan(["in"], None, UpscaleSettings(), overwrite=False, share=(rank, 2)) for rank in range(2)]
    assert [[job.source.stem for job in each.jobs] for each in later] == [["2", "4"], ["1"]]


def test_equal_names_of_different_kinds_keep_their_ending() -> None:
    touch("in/a.jpg", "in/a.png", "in/b.png")
    both = [("in/a.jpg", "in/a_jpg_x4.png"), ("in/a.png", "in/a_png_x4.png"), ("in/b.png", "in/b_x4.png")]
    assert pairs(plan("in")) == both
    touch("in/a_jpg_x4.png")
    assert pairs(plan("in")) == both[1:]
    assert pairs(plan("in", form="same")) == [
        ("in/a.jpg", "in/a_x4.jpg"),
        ("in/a.png", "in/a_x4.png"),
        ("in/b.png", "in/b_x4.png"),
    ]


def test_two_inputs_with_one_result_are_told_apart() -> None:
    touch("a.png", "other/a.png")
    assert plan("a.png", "other/a.png", output="out").problems == [
        "'other/a.png' would be written to 'out/a_png_x4.png', as 'a.png' is. "
        "Rename one, or upscale them into different folders."
    ]
    assert len(plan("a.png", "other/a.png").jobs) == 2


def test_input_named_twice_is_done_once() -> None:
    touch("in/a.jpg")
    assert len(plan("in/a.jpg", "in", os.path.abspath("in/a.jpg")).jobs) == 1


def test_results_of_earlier_runs_are_no_inputs_whatever_their_size_and_format() -> None:
    touch("in/a.jpg", "in/a_x4.png", "in/a_x1.5.webp", "in/a_long2048.jpg", "in/a_jpg_short90.tif", "in/b_x4.png")
    made = plan("in", overwrite=True)
    assert pairs(made) == [("in/a.jpg", "in/a_x4.png"), ("in/b_x4.png", "in/b_x4_x4.png")]
    assert made.notes == [
        "'in/a_jpg_short90.tif', 'in/a_long2048.jpg', 'in/a_x1.5.webp', 'in/a_x4.png': "
        "left out, results of earlier runs."
    ]
    assert pairs(plan("in/a_x4.png")) == [("in/a_x4.png", "in/a_x4_x4.png")]


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 4.0},
        {"scale": 1.25},
        {"long_edge": 2048},
        {"short_edge": 90},
        {"megapixels": 8.0},
        {"megapixels": 0.25},
        {"width": 1920, "height": 1080},
        {"width": 64, "height": 64, "fit": "pad"},
    ],
    ids=str,
)
def test_every_way_to_give_a_size_makes_a_name_that_is_known_as_a_result(settings: dict[str, Any]) -> None:
    touch("in/a.jpg", f"in/a_{UpscaleSettings(**settings).size_name}.png")
    assert [source for source, _ in pairs(plan("in", overwrite=True))] == ["in/a.jpg"]


def test_input_is_never_replaced_by_its_result() -> None:
    touch("a.png")
    made = plan("a.png", output="a.png", overwrite=True)
    assert made.jobs == []
    assert made.problems == ["'a.png' would be replaced by its own result. Choose another -o."]


def test_result_that_is_a_folder_is_refused() -> None:
    touch("a.jpg", "a_x4.png/inside")
    assert plan("a.jpg", overwrite=True).problems == ["'a_x4.png' is a folder. Choose another -o."]
