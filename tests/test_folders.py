"""Real-world folders: odd names, other formats, files of other programs, and all kinds of masks and tables."""

import os
import time
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_exdd._images.decoding import _FORMATS, IMAGE_SUFFIXES, read_image
from sklearn_exdd._images.files import list_files
from sklearn_exdd.datasets import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.detectors.exdd import ExDDDetector
from sklearn_exdd.review import ReviewFolder

# Paths of a good image, a defect and its mask in the layout of each loader.
LAYOUTS = {
    load_folder: ("normal/{}", "defect/scratch/{}", "masks/scratch/{}"),
    load_mvtec: ("train/good/{}", "test/scratch/{}", "ground_truth/scratch/{}"),
    load_ksdd2: ("train/{}", "test/{}", "test/{}"),
}
LOADERS = pytest.mark.parametrize("load", LAYOUTS, ids=lambda load: load.__name__)


def write(path, grey=90, format="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path, format=format)
    return path


def fill(load, root, name="1.png", mask=None):
    """Write one good image, one defect and its mask; return the folder of the good image."""
    good, defect, masks = LAYOUTS[load]
    stem, suffix = os.path.splitext(name)
    write(root / good.format("0.png"))
    write(root / defect.format(name))
    if load is load_ksdd2:
        write(root / good.format("0_GT.png"), 0)
        write(root / defect.format(f"{mask or stem}_GT{suffix}"), 255)
    else:
        write(root / masks.format(f"{mask or stem}{suffix}"), 255)
    return (root / good).parent


# Recognising image files


def test_every_suffix_that_pillow_knows_for_a_format_that_is_read_is_looked_for():
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS}
    assert known <= set(IMAGE_SUFFIXES)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)


def test_the_guide_lists_every_suffix():
    guide = (Path(__file__).parent.parent / "docs" / "guide" / "images.md").read_text(encoding="utf-8")
    assert [suffix for suffix in IMAGE_SUFFIXES if f"`{suffix}`" not in guide] == []


@LOADERS
@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".PGM", ".Jp2", ".GIF"])
def test_all_formats_that_are_read_are_found_in_any_case(load, suffix, tmp_path):
    fill(load, tmp_path, f"1{suffix}")
    data = load(tmp_path)
    assert [path.name for path in data.X] == ["0.png", f"1{suffix}"]
    assert data.y.tolist() == [0, 1]
    assert data.masks[1].suffix == suffix
    assert data.left_out == []


def test_the_review_page_lists_the_same_formats(tmp_path):
    for suffix in IMAGE_SUFFIXES:
        write(tmp_path / f"a{suffix}")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "@eaDir").mkdir()
    write(tmp_path / "@eaDir" / "thumb.png")
    assert sorted(entry.name for entry in ReviewFolder(tmp_path).entries()) == sorted(f"a{s}" for s in IMAGE_SUFFIXES)


@LOADERS
@pytest.mark.parametrize(
    "name", ["a.heic", "a.HEIF", "a.raw", "a.dcm", "a.svg", "a.psd", "a.cr2", "a.npy", "a", "a.png.bak", "a.zip", "a.1"]
)
def test_files_that_may_be_images_are_not_left_out_silently(load, name, tmp_path):
    place = fill(load, tmp_path)
    (place / name).write_bytes(b"?")
    with pytest.warns(UserWarning, match=rf"^1 file in '.*' left out, such as '.*{name}': expected .*, as \.png, "):
        data = load(tmp_path)
    assert data.left_out == [place / name]
    assert len(data.X) == 2


def test_a_warning_counts_files_and_shows_the_line_of_the_caller(tmp_path):
    place = fill(load_folder, tmp_path)
    for name in ("b.heic", "a.heic"):
        (place / name).touch()
    with pytest.warns(UserWarning, match=r"^2 files in .* left out, such as 'normal/a\.heic'") as caught:
        load_folder(tmp_path)
    assert caught[0].filename == __file__


@LOADERS
def test_files_beside_images_are_left_out_without_a_word(load, tmp_path):
    place = fill(load, tmp_path)
    for name in (
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", ".DS_Store", "._0.png", ".hidden.png", "0.png:Zone.Identifier"),
        *("notes.txt", "0.json", "table.CSV", "0.xml", "README", "readme.md", "a.pdf", "a.html", "run.log", "a.yaml"),
        *("@eaDir/0.png/THUMB_M.jpg", ".@__thumb/0.png", "__MACOSX/0.png", ".thumbnails/0.png", "$RECYCLE.BIN/0.png"),
    ):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"?")
    data = load(tmp_path)
    assert len(data.X) == 2
    assert data.left_out == []


@LOADERS
@pytest.mark.parametrize("name", ["part1.png", "0.png.tif", "parts.JPG"])
def test_a_folder_named_like_an_image_is_a_folder(load, name, tmp_path):
    place = fill(load, tmp_path)
    (place / name).mkdir()
    assert len(load(tmp_path).X) == 2


def test_images_in_a_folder_named_like_one_are_found(tmp_path):
    write(tmp_path / "normal" / "part1.png" / "crop.png")
    assert [path.name for path in load_folder(tmp_path).X] == ["crop.png"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no symbolic links")
def test_links(tmp_path):
    write(tmp_path / "normal" / "0.png")
    write(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "normal" / "broken.png").symlink_to(tmp_path / "normal" / "gone.png")
    (tmp_path / "normal" / "link.png").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"2 files in .* such as 'elsewhere/1\.png'"):
        data = load_folder(tmp_path)
    assert [path.name for path in data.X] == ["0.png", "broken.png"]
    with pytest.raises(FileNotFoundError, match=r"broken\.png\): expected an image file, found no such file"):
        read_image(data.X[1], f"X[1] ({data.X[1]})")


def test_images_outside_the_kinds_of_mvtec_are_named(tmp_path):
    fill(load_mvtec, tmp_path)
    write(tmp_path / "test" / "stray.png")
    with pytest.warns(UserWarning, match=r"1 file in .* such as 'test/stray\.png': expected train/good/"):
        assert len(load_mvtec(tmp_path).X) == 2


@LOADERS
def test_a_file_in_place_of_a_folder_is_named(load, tmp_path):
    fill(load, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"1\.png': expected a folder with .*, got a file"):
        load(next(tmp_path.rglob("1.png")))
    part = LAYOUTS[load][0].partition("/")[0]
    (tmp_path / part).rename(tmp_path / "moved")
    (tmp_path / part).touch()
    with pytest.raises(ValueError, match=rf"{part}': expected a folder of images, got a file"):
        load(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list_files(tmp_path / "gone")


@LOADERS
@pytest.mark.parametrize("spell", [str.upper, str.title])
def test_folders_of_a_layout_may_be_written_in_upper_case(load, spell, tmp_path):
    fill(load, tmp_path / "as documented")
    expected = load(tmp_path / "as documented")
    for path in sorted((tmp_path / "as documented").rglob("*.png")):
        *folders, name = path.relative_to(tmp_path / "as documented").parts
        place = tmp_path.joinpath("shouted", *(part if part == "scratch" else spell(part) for part in folders), name)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    data = load(tmp_path / "shouted")
    for name in ("X", "masks"):
        assert [path and path.name for path in data[name]] == [path and path.name for path in expected[name]]
    assert data.kinds.tolist() == expected.kinds.tolist()
    assert data.masks[1] is not None


def test_kinds_that_look_the_same_are_the_same(tmp_path):
    for form in ("NFC", "NFD"):
        write(tmp_path / "defect" / unicodedata.normalize(form, "größe") / f"{form}.png")
    assert len(set(load_folder(tmp_path).kinds)) == 1


# Masks


@pytest.mark.parametrize("name", ["masks/0.png", "masks/0_mask.png", "masks/good/0.png", "masks/good/0_mask.png"])
def test_a_normal_image_may_have_a_mask(name, tmp_path):
    fill(load_folder, tmp_path)
    (tmp_path / "normal").rename(tmp_path / "good")
    write(tmp_path / name, 0)
    data = load_folder(tmp_path)
    assert [mask and mask.relative_to(tmp_path).as_posix() for mask in data.masks] == [name, "masks/scratch/1.png"]


def test_a_normal_image_of_mvtec_may_have_a_mask(tmp_path):
    fill(load_mvtec, tmp_path)
    write(tmp_path / "test" / "good" / "7.png")
    write(tmp_path / "ground_truth" / "good" / "7_mask.png", 0)
    data = load_mvtec(tmp_path)
    assert dict(zip([path.name for path in data.X], [mask and mask.name for mask in data.masks])) == {
        "0.png": None,
        "1.png": "1.png",
        "7.png": "7_mask.png",
    }


def test_the_mask_of_a_defect_is_not_that_of_a_normal_image_of_the_same_name(tmp_path):
    for name in ("good/1.png", "defect/1.png", "masks/1.png"):
        write(tmp_path / name)
    assert [mask is not None for mask in load_folder(tmp_path).masks] == [False, True]


@pytest.mark.parametrize("grey", [0, 255])
def test_fit_decides_on_masks_of_normal_images(grey, tmp_path, surfaces):
    X, y, masks = surfaces
    for i in range(len(X)):
        for folder, pixels in (("defect" if y[i] else "good", X[i]), ("masks", masks[i])):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    Image.new("L", X[0].shape[::-1], grey).save(tmp_path / "masks" / f"{int(np.flatnonzero(y == 0)[0])}.png")
    data = load_folder(tmp_path)
    assert all(mask is not None for mask in data.masks)
    if grey:
        with pytest.raises(ValueError, match="expected None or an empty mask for a normal image, got one with"):
            ExDDDetector().fit(data.X, data.y, masks=data.masks)
    else:
        ExDDDetector().fit(data.X, data.y, masks=data.masks)


@pytest.mark.parametrize("load", [load_folder, load_mvtec])
def test_two_masks_of_one_image_are_refused(load, tmp_path):
    fill(load, tmp_path)
    write(tmp_path / LAYOUTS[load][2].format("1_mask.png"))
    with pytest.raises(ValueError, match=r"1\.png': expected one mask, got '.*1\.png' and '.*1_mask\.png'. Remove one"):
        load(tmp_path)


def test_two_masks_or_images_of_one_name_are_refused_in_ksdd2(tmp_path):
    fill(load_ksdd2, tmp_path)
    write(tmp_path / "test" / "1.bmp")
    with pytest.raises(ValueError, match=r"one image and one mask of each name, got \['1\.bmp', '1\.png', '1_GT\.png'"):
        load_ksdd2(tmp_path)


def test_images_that_differ_in_their_suffix_share_a_mask_or_have_their_own(tmp_path):
    for name in ("defect/1.png", "defect/1.bmp", "masks/1.tif"):
        write(tmp_path / name)
    assert [mask.name for mask in load_folder(tmp_path).masks] == ["1.tif", "1.tif"]
    (tmp_path / "masks" / "1.tif").unlink()
    for name in ("masks/1.png", "masks/1.bmp"):
        write(tmp_path / name)
    assert [mask.name for mask in load_folder(tmp_path).masks] == ["1.bmp", "1.png"]


@LOADERS
@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (unicodedata.normalize("NFD", "öl"), unicodedata.normalize("NFC", "öl")),
        (unicodedata.normalize("NFC", "Ǻé"), unicodedata.normalize("NFD", "Ǻé")),
        ("Part1", "part1"),
        ("ÄRGER", unicodedata.normalize("NFD", "ärger")),
    ],
)
def test_names_that_look_the_same_are_the_same(load, image, mask, tmp_path):
    fill(load, tmp_path, f"{image}.png", mask)
    data = load(tmp_path)
    assert data.y.tolist() == [0, 1]
    assert data.masks[1] is not None


@pytest.mark.parametrize("load", [load_folder, load_mvtec])
def test_case_decides_between_two_names_and_is_not_guessed(load, tmp_path):
    fill(load, tmp_path)
    defect, masks = (tmp_path / place for place in LAYOUTS[load][1:])
    for name in ("a.png", "A.png"):
        write(defect.with_name(name))
        write(masks.with_name(name))
    if len(list(defect.parent.iterdir())) < 3:
        pytest.skip("this file system does not allow such names")
    data = load(tmp_path)
    assert [mask and mask.name for mask in data.masks] == [None, "1.png", "A.png", "a.png"]
    write(defect.with_name("bc.png"))
    write(defect.with_name("BC.png"))
    write(masks.with_name("Bc.png"))
    with pytest.raises(ValueError, match=r"Bc\.png' has no image"):
        load(tmp_path)


def test_the_time_to_pair_masks_grows_with_their_number_and_not_faster(tmp_path):
    def seconds(n):
        folder = tmp_path / str(n)
        for part in ("good", "defect", "masks"):
            (folder / part).mkdir(parents=True)
        (folder / "good" / "a.png").touch()
        for i in range(n):
            (folder / "defect" / f"{i}.png").touch()
            (folder / "masks" / f"{i}_mask.png").touch()
        times = []
        for _ in range(3):
            start = time.process_time()
            assert all(load_folder(folder).masks[1:])
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(4000) < 32 * seconds(500)  # 8 times as many files; quadratic time would grow 64-fold


# index.csv


def table(root, text, encoding="utf-8"):
    for name in ("a.png", "b.png", "c.png", "b_mask.png"):
        write(root / "x" / name)
    (root / "index.csv").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return root


TABLE = "image,label,mask,type,group\r\nx/a.png,0,,,7\r\nx/b.png,1,x/b_mask.png,Riß,8\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("separator", "first"), [(",", ""), (";", ""), ("\t", ""), (";", "sep=;\r\n"), ("|", "sep=|\n")]
)
@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
def test_tables_are_read_as_programs_write_them(encoding, separator, first, newline, tmp_path):
    text = first + TABLE.replace(",", separator).replace("\r\n", newline)
    data = load_index(table(tmp_path, text, encoding))
    assert [path.name for path in data.X] == ["a.png", "b.png"]
    assert data.kinds.tolist() == ["normal", "Riß"]
    assert data.groups.tolist() == ["7", "8"]
    assert data.masks[1].name == "b_mask.png"


@pytest.mark.parametrize(
    "text",
    [
        "\n\nimage,label\n\nx/a.png,0\n,\n  , \nx/b.png,1\n\n",
        " image , Label \n x/a.png , 0 \n\tx/b.png,  1\n",
        '"image","label"\n"x/a.png", 0\n "x/b.png" ,"1"\n',
        "image,label\nx\\a.png,0\n.\\x\\b.png,1\n",
        "image,label\n./x/a.png,0\nX/B.PNG,1\n",
        "image,label,,\nx/a.png,0,,\nx/b.png,1,,\n",
        "image;label;note\nx/a.png;0;a, b\nx/b.png;1;\n",
    ],
)
def test_blank_lines_spaces_quotes_and_other_spellings(text, tmp_path):
    data = load_index(table(tmp_path, text))
    assert [path.name for path in data.X] == ["a.png", "b.png"]
    assert data.y.tolist() == [0, 1]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_a_table_are_compared_composed(forms, tmp_path):
    on_disk, in_table = (unicodedata.normalize(form, "Größe/öl.png") for form in forms)
    write(tmp_path / on_disk)
    data = load_index(table(tmp_path, f"image,label,mask\n{in_table},1,{in_table}\n"))
    assert unicodedata.normalize("NFC", data.X[0].name) == unicodedata.normalize("NFC", "öl.png")
    assert data.masks == data.X


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label,type\nx/a.png,1,Riß\n".encode("cp1252"), "line 2: expected UTF-8, got the byte 0xdf"),
        ("image,label,type\rx/a.png,0,\rx/b.png,1,Riß\r".encode("mac-roman"), "line 3: expected UTF-8, got the byte"),
        ("image,label\nx/a.png,0\n".encode("utf-16-le"), "line 1: expected UTF-8, got the byte 0x00"),
        ("image,label\nx/a.png,0\n".encode("utf-16-be"), "line 1: expected UTF-8, got the byte 0x00"),
        ("image,label\nx/a.png,0\n".encode("utf-32"), "line 1: expected UTF-8, got the byte 0x00"),
        ("image,label\nx/a.png,0\n".encode("utf-16")[:-1], "line 2: expected UTF-8"),
        ("image,label\nx/ä.png,0\n".encode()[:18] + b"\xff,0", "line 2: expected UTF-8, got the byte 0x"),
    ],
)
def test_other_encodings_are_named_with_the_line_and_the_remedy(content, message, tmp_path):
    with pytest.raises(ValueError, match=rf'index\.csv, {message}.*Save the table as "CSV UTF-8"') as caught:
        load_index(table(tmp_path, content))
    assert not isinstance(caught.value, UnicodeError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image|label\nx/a.png|0\n", r"separated by commas, semicolons or tabs, got the columns \['image\|label'\]"),
        ("image,label,image\nx/a.png,0,x/b.png\n", "expected each column once, got the columns"),
        (
            "image,label\nx/a,b.png,0\n",
            "line 2: expected 2 cells, got 3. Put names that contain the separator in double",
        ),
        ("image,label\nx/a.png,0\nx/b.png,1\nx/a.png,1\n", r"line 4: expected one row .*a\.png' again, as in line 2"),
        ("image,label\nx/a.png,0\nx/b.png,1\nx\\a.png,0\n", r"line 4: expected one row .*a\.png' again, as in line 2"),
        ("image,label,mask\nx/b.png,1,x/b_mask.png\nx/b.png,1,x/a.png\n", "line 3: expected one row for each image"),
        ("sep=;\nimage;label\nx/a.png;2\n", "line 3: expected a label such as"),
    ],
)
def test_wrong_tables_are_named_by_their_line(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_index(table(tmp_path, text))


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    table(tmp_path, "image,label\nx,0\n")
    with pytest.raises(FileNotFoundError, match=r"line 2: 'x' is a folder, not a file"):
        load_index(tmp_path)
    (tmp_path / "index.csv").unlink()
    (tmp_path / "index.csv").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"index\.csv': expected index\.csv with .*\. Got a folder of this name"
    ):
        load_index(tmp_path)


@pytest.mark.parametrize("blank", ["", " ", "nan", "NaN", "None", "<NA>", "NULL"])
def test_a_blank_group_is_a_group_of_its_own(blank, tmp_path):
    text = f"image,label,group\nx/a.png,0,{blank}\nx/b.png,1,{blank}\nx/c.png,0,{{}}\n"
    assert load_index(table(tmp_path, text.format(blank))).groups is None
    for name in ("part 7", "x/a.png"):
        groups = load_index(table(tmp_path, text.format(name))).groups
        assert len(set(groups)) == 3
        assert groups[2] == name


def test_a_table_without_groups_of_use_can_be_fitted(tmp_path, surfaces):
    X, y, _ = surfaces
    for i, image in enumerate(X):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,{label},\n" for i, label in enumerate(y))
    (tmp_path / "index.csv").write_text("image,label,group\n" + rows)
    data = load_index(tmp_path)
    ExDDDetector().fit(data.X, data.y, groups=data.groups)


def test_no_warning_of_ours_is_silenced(tmp_path):
    place = fill(load_folder, tmp_path)
    (Path(place) / "a.heic").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="left out"):
            load_folder(tmp_path)


# Images that do not fit the layout


@LOADERS
@pytest.mark.parametrize("place", ["bad/2.png", "2.png", "Validation/good/2.jpg"])
def test_images_outside_the_layout_are_named(load, place, tmp_path):
    fill(load, tmp_path)
    write(tmp_path / place)
    with pytest.warns(UserWarning, match=rf"^1 file in .* left out, such as '{place}': expected "):
        data = load(tmp_path)
    assert data.left_out == [tmp_path / place]
    assert tmp_path / place not in data.X


@LOADERS
def test_reviews_reports_and_hidden_folders_are_no_images_outside_the_layout(load, tmp_path):
    fill(load, tmp_path)
    for place in ("review/images/1.png", "report/maps/1.png", ".cache/1.png", "__MACOSX/1.png"):
        write(tmp_path / place)
    for name in ("scores.csv", "report.html"):
        (tmp_path / "report" / name).touch()
    assert load(tmp_path).left_out == []


@pytest.mark.parametrize("subset", ["train", "test"])
@pytest.mark.parametrize("load", [load_mvtec, load_ksdd2], ids=lambda load: load.__name__)
def test_the_other_subset_is_not_outside_the_layout(load, subset, tmp_path):
    fill(load, tmp_path)
    assert load(tmp_path, subset).left_out == []


@pytest.mark.parametrize(
    ("mask", "is_defect"),
    [
        (np.zeros((8, 8), np.uint8), False),
        (np.eye(8, dtype=np.uint8), True),
        (np.full((8, 8, 4), (255, 255, 255, 0), np.uint8), False),
        (np.eye(8, dtype=np.uint8)[..., None] * np.array([255, 255, 255, 255], np.uint8), True),
    ],
    ids=["black", "labels", "transparent", "paint"],
)
def test_masks_of_ksdd2_are_read_by_the_rule_of_fit(mask, is_defect, tmp_path):
    fill(load_ksdd2, tmp_path)
    Image.fromarray(mask).save(tmp_path / "train" / "0_GT.png")
    assert load_ksdd2(tmp_path, "train").y.tolist() == [int(is_defect)]


# Labels in tables


@pytest.mark.parametrize(
    ("normal", "defect"),
    [
        ("0", "1"),
        ("OK", "NG"),
        ("good", "bad"),
        ("Normal", "Anomaly"),
        ("False", "True"),
        ("0.0", "1.0"),
        ("gut", "Ausschuss"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_labels_of_a_table_are_those_of_fit(normal, defect, encoding, separator, tmp_path):
    rows = [("image", "label"), ("a.png", normal), ("b.png", defect)]
    for name, _ in rows[1:]:
        write(tmp_path / name)
    (tmp_path / "index.csv").write_text("\n".join(map(separator.join, rows)), encoding=encoding)
    data = load_index(tmp_path)
    assert data.y.tolist() == [0, 1]
    assert data.kinds.tolist() == ["normal", "defect"]


@pytest.mark.parametrize("label", ["2", "-1", "maybe", "", "nan", "left"])
def test_a_label_of_no_known_meaning_is_refused(label, tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "index.csv").write_text(f"image,label\na.png,{label}\n")
    with pytest.raises(
        ValueError, match=rf"line 2: expected a label such as 0, good or OK, or 1, bad or NG, got '{label}'"
    ):
        load_index(tmp_path)
