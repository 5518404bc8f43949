import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from sklearn_exdd.datasets import load_folder, load_index, load_ksdd2, load_mvtec, make_surface_defects

TEXTURES = ["metal", "cast", "fabric", "tile"]
DEFECTS = ["scratch", "crack", "pit", "stain", "dent"]


def write(root, *names, grey=90):
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(path, format="png")


def names(root, paths):
    return [path and path.relative_to(root).as_posix() for path in paths]


# Surfaces


def test_shapes_and_dtypes_are_those_of_the_contract():
    X, y, masks = make_surface_defects(7, image_shape=(40, 56), random_state=0)
    assert (X.shape, X.dtype) == ((7, 40, 56), np.uint8)
    assert (y.shape, y.dtype.kind) == ((7,), "i")
    assert (masks.shape, masks.dtype) == (X.shape, bool)


@pytest.mark.parametrize("texture", TEXTURES)
def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(texture):
    first, again, other = (
        make_surface_defects(4, image_shape=(64, 64), random_state=s, texture=texture) for s in (0, 0, 1)
    )
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_the_global_generator_stays_untouched_and_an_int_equals_its_random_state():
    global_state = np.random.mtrand._rand.get_state
    before = global_state()[1].copy()
    from_int = make_surface_defects(3, image_shape=(32, 32), random_state=5)[0]
    from_state = make_surface_defects(3, image_shape=(32, 32), random_state=np.random.RandomState(5))[0]
    np.testing.assert_array_equal(global_state()[1], before)
    np.testing.assert_array_equal(from_int, from_state)


@pytest.mark.parametrize(
    ("n_samples", "fraction", "expected"), [(10, 0.3, 3), (7, 0.5, 4), (5, 0, 0), (5, 1, 5), (1, 0.2, 0)]
)
def test_the_number_of_defects_is_the_rounded_share(n_samples, fraction, expected):
    y = make_surface_defects(n_samples, defect_fraction=fraction, image_shape=(32, 32), random_state=0)[1]
    assert y.sum() == expected


def test_defects_are_at_shuffled_positions():
    y = make_surface_defects(40, defect_fraction=0.5, image_shape=(32, 32), random_state=0)[1]
    assert 5 < y[:20].sum() < 15


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_the_mask_tells_the_truth(texture, kind):
    settings = {"image_shape": (64, 64), "texture": texture, "defects": kind, "random_state": 3}
    X, y, masks = make_surface_defects(24, defect_fraction=0.5, **settings)
    sound = make_surface_defects(24, defect_fraction=0, **settings)[0]
    np.testing.assert_array_equal(X[~masks], sound[~masks])
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), y == 1)
    for image, before, mask in zip(X[y == 1], sound[y == 1], masks[y == 1]):
        change = np.abs(image.astype(int) - before)[mask]
        assert (change >= 3).mean() > 0.7
        assert change.max() >= 12
        assert 4 <= mask.sum() < 0.4 * mask.size


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("image_shape", [(32, 32), (33, 47), (35, 131), (200, 33)])
def test_every_image_shape_from_32_pixels_a_side_works(image_shape, texture):
    X, _, masks = make_surface_defects(15, defect_fraction=1, image_shape=image_shape, texture=texture, random_state=0)
    assert X.shape == masks.shape == (15, *image_shape)
    assert masks.any(axis=(1, 2)).all()
    assert (X.std(axis=(1, 2)) > 1).all()


@pytest.mark.parametrize("kind", ["scratch", "stain", "dent"])
def test_defects_scale_with_the_image(kind):
    settings = {"defect_fraction": 1, "defects": kind, "texture": "tile", "random_state": 0}
    small, large = (make_surface_defects(30, image_shape=(s, s), **settings)[2].any(axis=2).mean() for s in (64, 192))
    assert 0.6 < small / large < 1.7


@pytest.mark.slow
@pytest.mark.parametrize("texture", TEXTURES)
def test_no_single_number_of_the_image_gives_the_defect_away(texture):
    X, y, _ = make_surface_defects(300, defect_fraction=0.5, image_shape=(64, 64), texture=texture, random_state=0)
    shortcuts = {
        "mean": X.mean(axis=(1, 2)),
        "std": X.std(axis=(1, 2)),
        "compressed size": [len(zlib.compress(image.tobytes())) for image in X],
    }
    for name, score in shortcuts.items():
        assert 0.35 < roc_auc_score(y, score) < 0.65, name


def test_all_kinds_of_defect_are_drawn_unless_some_are_named():
    settings = {"defect_fraction": 1, "image_shape": (32, 32), "random_state": 0}
    everything, named, one, in_a_list = (
        make_surface_defects(30, defects=defects, **settings)[0] for defects in (None, DEFECTS, "pit", ["pit"])
    )
    np.testing.assert_array_equal(everything, named)
    np.testing.assert_array_equal(one, in_a_list)
    assert not np.array_equal(everything, one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 0}, r"^n_samples: expected an integer of at least 1, got 0"),
        ({"n_samples": 2.5}, r"^n_samples: expected an integer of at least 1, got 2.5"),
        ({"defect_fraction": 1.1}, r"^defect_fraction: expected a number in \[0, 1\], got 1.1"),
        ({"defect_fraction": float("nan")}, r"^defect_fraction: expected a number in \[0, 1\], got nan"),
        ({"image_shape": (31, 64)}, r"two integers of at least 32, got \(31, 64\)"),
        ({"image_shape": (64, 64, 3)}, r"^image_shape: expected \(height, width\)"),
        ({"image_shape": 64}, r"^image_shape: expected \(height, width\)"),
        ({"image_shape": (64.0, 64)}, r"^image_shape: expected \(height, width\)"),
        ({"texture": "wood"}, r"^texture: expected one of \['metal', 'cast', 'fabric', 'tile'\], got 'wood'"),
        ({"defects": "rust"}, r"one or more of \['scratch', 'crack', 'pit', 'stain', 'dent'\], got 'rust'"),
        ({"defects": ["pit", "rust"]}, r"got \['pit', 'rust'\]"),
        ({"defects": []}, r"one or more of .* got \[\]"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        make_surface_defects(**settings)


# Folders: normal/, defect/, masks/


def test_load_folder_pairs_images_kinds_and_masks(tmp_path):
    write(tmp_path, "normal/b.png", "normal/a.JPG", "good/z.tiff", "defect/plain.png", "defect/scratch/s2.bmp")
    write(tmp_path, "defect/scratch/s1.webp", "masks/plain_mask.png", "masks/scratch/s2.png")
    write(tmp_path, "normal/.hidden.png", "normal/.cache/c.png", "normal/notes.txt")
    data = load_folder(str(tmp_path))
    assert names(tmp_path, data.X) == [
        *("good/z.tiff", "normal/a.JPG", "normal/b.png"),
        *("defect/plain.png", "defect/scratch/s1.webp", "defect/scratch/s2.bmp"),
    ]
    assert data.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.kinds.tolist() == ["normal"] * 3 + ["defect", "scratch", "scratch"]
    assert names(tmp_path, data.masks) == [None] * 3 + ["masks/plain_mask.png", None, "masks/scratch/s2.png"]
    assert data.groups is None
    assert all(isinstance(path, Path) for path in data.X)


def test_load_folder_prefers_the_mask_of_the_very_same_name(tmp_path):
    write(tmp_path, "defect/1.png", "defect/1_mask.png", "masks/1_mask.png")
    assert names(tmp_path, load_folder(tmp_path).masks) == [None, "masks/1_mask.png"]


def test_load_folder_does_not_decode_images(tmp_path):
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "broken.png").write_bytes(b"not an image")
    assert load_folder(tmp_path).y.tolist() == [0]


@pytest.mark.parametrize("images", [["normal/1.png"], ["normal/1.png", "defect/1.png"]])
def test_load_folder_refuses_a_mask_without_an_image(tmp_path, images):
    write(tmp_path, *images, "masks/2.png")
    with pytest.raises(ValueError, match=r"2\.png' has no image. Expected '.*defect.2'"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("load", "layout"),
    [
        (load_folder, r"normal/ \(or good/\), defect/"),
        (load_mvtec, "train/good/, test/<kind>/"),
        (load_ksdd2, "train/ and test/ with 10000.png"),
        (load_index, "index.csv with the columns image and label"),
    ],
)
def test_a_missing_folder_is_named_with_the_layout_it_should_have(tmp_path, load, layout):
    with pytest.raises(FileNotFoundError, match=rf"nowhere': expected a folder with {layout}.*, found no such folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("load", [load_folder, load_mvtec, load_ksdd2])
def test_a_folder_without_images_is_refused(tmp_path, load):
    write(tmp_path, "normal/notes.txt")
    with pytest.raises(ValueError, match=r"Found no images in .*\. Expected .*, as \.png, \.jpg"):
        load(tmp_path)


# MVTec AD


@pytest.fixture
def mvtec(tmp_path):
    write(tmp_path, "train/good/001.png", "train/good/000.png", "test/good/000.png", "test/hole/000.png")
    write(tmp_path, "test/cut/000.png", "ground_truth/hole/000_mask.png", "ground_truth/cut/000_mask.png")
    return tmp_path


def test_load_mvtec_reads_the_layout_of_one_category(mvtec):
    data = load_mvtec(mvtec)
    tested = ["test/cut/000.png", "test/good/000.png", "test/hole/000.png"]
    assert names(mvtec, data.X) == ["train/good/000.png", "train/good/001.png", *tested]
    assert data.y.tolist() == [0, 0, 1, 0, 1]
    assert data.kinds.tolist() == ["normal", "normal", "cut", "normal", "hole"]
    assert data.is_test.tolist() == [False, False, True, True, True]
    truth = ["ground_truth/cut/000_mask.png", None, "ground_truth/hole/000_mask.png"]
    assert names(mvtec, data.masks) == [None, None, *truth]


def test_load_mvtec_refuses_a_mask_without_an_image(mvtec):
    write(mvtec, "ground_truth/hole/007_mask.png")
    with pytest.raises(ValueError, match=r"007_mask\.png' has no image"):
        load_mvtec(mvtec)
    assert len(load_mvtec(mvtec, subset="train").X) == 2


# KolektorSDD2


@pytest.fixture
def ksdd2(tmp_path):
    write(tmp_path, "train/10000.png", "train/10001.png", "train/10001 (copy).png", "test/20000.png")
    write(tmp_path, "train/10000_GT.png", grey=0)
    write(tmp_path, "train/10001_GT.png", "train/10001_GT (copy).png", "test/20000_GT.png", grey=255)
    return tmp_path


def test_load_ksdd2_takes_the_label_from_the_mask_and_leaves_copies_out(ksdd2):
    data = load_ksdd2(ksdd2)
    assert names(ksdd2, data.X) == ["train/10000.png", "train/10001.png", "test/20000.png"]
    assert names(ksdd2, data.masks) == [None, "train/10001_GT.png", "test/20000_GT.png"]
    assert data.y.tolist() == [0, 1, 1]
    assert data.kinds.tolist() == ["normal", "defect", "defect"]
    assert data.is_test.tolist() == [False, False, True]


def test_load_ksdd2_sees_a_mask_of_one_faint_pixel(ksdd2):
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[3, 5] = 1
    Image.fromarray(mask).save(ksdd2 / "train" / "10000_GT.png")
    assert load_ksdd2(ksdd2).y.tolist() == [1, 1, 1]


@pytest.mark.parametrize("lonely", ["10002.png", "10002_GT.png"])
def test_load_ksdd2_refuses_an_image_or_a_mask_that_stands_alone(ksdd2, lonely):
    write(ksdd2, f"test/{lonely}")
    with pytest.raises(ValueError, match=rf"expected both 10002\.png and 10002_GT\.png, got {lonely}"):
        load_ksdd2(ksdd2)


@pytest.mark.parametrize(("load", "layout"), [(load_mvtec, "mvtec"), (load_ksdd2, "ksdd2")])
def test_the_two_subsets_together_are_the_whole(load, layout, request):
    path = request.getfixturevalue(layout)
    both, train, test = load(path), load(path, subset="train"), load(path, subset="test")
    assert train.X + test.X == both.X
    assert train.masks + test.masks == both.masks
    assert not train.is_test.any()
    assert test.is_test.all()
    with pytest.raises(ValueError, match=r"^subset: expected 'train', 'test' or None \(both\), got 'val'"):
        load(path, subset="val")


# index.csv


def index(root, *lines):
    write(root, "x/a.png", "x/b.png", "m/b.png")
    (root / "index.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    return root


def test_load_index_reads_all_columns_in_the_order_of_the_rows(tmp_path):
    write(tmp_path, "x/c.png", "m/a.png")
    rows = ["x/b.png,1,m/b.png,crack,part 1", "x/a.png,0,m/a.png,,part 1", "x/c.png,Defect,,,part 2"]
    data = load_index(index(tmp_path, "image,label,mask,type,group", *rows))
    assert names(tmp_path, data.X) == ["x/b.png", "x/a.png", "x/c.png"]
    assert names(tmp_path, data.masks) == ["m/b.png", "m/a.png", None]
    assert data.y.tolist() == [1, 0, 1]
    assert data.kinds.tolist() == ["crack", "normal", "defect"]
    assert data.groups.tolist() == ["part 1", "part 1", "part 2"]


def test_load_index_needs_only_image_and_label(tmp_path):
    data = load_index(index(tmp_path, "label,image", "good,x/a.png", "1,x/b.png"))
    assert data.y.tolist() == [0, 1]
    assert data.masks == [None, None]
    assert data.groups is None


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (["image,label", "x/a.png,0", "x/c.png,1"], FileNotFoundError, "line 3: the folder contains no file 'x/c.png'"),
        (["image,label,mask", "x/a.png,1,m/a.png"], FileNotFoundError, "line 2: the folder contains no file 'm/a.png'"),
        (["image,label", ",0"], FileNotFoundError, "line 2: the folder contains no file ''"),
        (["image,label", "x/a.png,2"], ValueError, r"line 2: expected a label such as 0, .*, got '2'"),
        (["image,label", "x/a.png"], ValueError, "line 2: expected a label such as .*, got ''"),
        (["file;label", "x/a.png;0"], ValueError, r"columns image and label.*got the columns \['file;label'\]"),
        ([], ValueError, "got an empty table"),
        (["image,label"], ValueError, "Found no images"),
    ],
)
def test_load_index_says_which_line_is_wrong(tmp_path, lines, error, message):
    with pytest.raises(error, match=message):
        load_index(index(tmp_path, *lines))


def test_load_index_names_all_wrong_rows_and_the_error_is_that_of_the_first(tmp_path):
    gone, again = "x/c.png,1", "x/a.png,0"
    for rows, error in (([again, gone], ValueError), ([gone, again], FileNotFoundError)):
        with pytest.raises(error, match=r"index\.csv: expected only valid rows, got 2 wrong rows:\nline 3: ") as caught:
            load_index(index(tmp_path, "image,label", "x/a.png,0", *rows))
        assert {"line 3", "line 4"} < {line.partition(":")[0] for line in str(caught.value).splitlines()}
        assert "the folder contains no file 'x/c.png'." in str(caught.value)
        assert "got 'x/a.png' again, as in line 2." in str(caught.value)
        assert "more" not in str(caught.value)


def test_load_index_asks_for_its_table(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"index\.csv': expected index\.csv with the columns .* The file does not exist"
    ):
        load_index(tmp_path)
