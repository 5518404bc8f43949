"""Images, labels and groups in every container, matched by position."""

import pickle
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator

from sklearn_exdd import ExDDDetector, OffsetDefectAugmenter
from sklearn_exdd._images import Images, Masks
from sklearn_exdd._training_set import group_numbers
from sklearn_exdd.metrics import pixel_roc_auc_score

FORMS = [
    *("array", "list", "tuple", "objects", "paths", "texts", "array of texts", "pictures", "Series of arrays"),
    *(
        "Series of texts",
        "column",
        "tensor",
        "tensors",
        "tensor with gradient",
        "other byte order",
        "int64",
        "AugmentedImages",
    ),
]


@pytest.fixture
def every_form(squares, tmp_path):
    """Return a function that converts the images of X to one of the forms."""
    pd = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    from sklearn_exdd.augment import AugmentedImages

    (tmp_path / "in").mkdir()

    def give(X, form, name="image"):
        paths = [tmp_path / "in" / f"{name}{i}.png" for i in range(len(X))]
        for path, image in zip(paths, X):
            Image.fromarray(image).save(path)
        texts, labels = list(map(str, paths)), np.random.RandomState(0).permutation(len(X))
        objects = np.empty(len(X), dtype=object)
        objects[:] = list(X)
        floats = torch.from_numpy((X / 255).astype(np.float32))
        return {
            "array": X,
            "list": list(X),
            "tuple": tuple(X),
            "objects": objects,
            "paths": paths,
            "texts": texts,
            "array of texts": np.array(texts),
            "pictures": [Image.fromarray(image) for image in X],
            "Series of arrays": pd.Series(list(X), index=labels),
            "Series of texts": pd.Series(texts, index=labels),
            "column": pd.DataFrame({"path": texts}, index=labels)["path"],
            "tensor": torch.from_numpy(X.copy()),
            "tensors": list(torch.from_numpy(X.copy())),
            "tensor with gradient": floats.requires_grad_(),
            "other byte order": X.astype(">i4"),
            "int64": X.astype(np.int64),
            "AugmentedImages": AugmentedImages(list(X), None),
        }[form]

    return give


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_fits_and_predicts_alike(form, every_form, squares, cells):
    X, y, masks = squares
    given = every_form(X, form)
    labelled = ExDDDetector(cells, random_state=0).fit(X, y)
    np.testing.assert_allclose(
        ExDDDetector(cells, random_state=0).fit(given, y).score_samples(given), labelled.score_samples(X), rtol=1e-5
    )
    apart = ExDDDetector(cells, random_state=0).fit(X[y == 0], X[y == 1], masks=masks[y == 1])
    normal, defect = every_form(X[y == 0], form, "normal"), every_form(X[y == 1], form, "defect")
    for arguments in ({"y": defect}, {"X_defect": defect}):
        detector = ExDDDetector(cells, random_state=0).fit(normal, masks=masks[y == 1], **arguments)
        np.testing.assert_allclose(detector.score_samples(X), apart.score_samples(X), rtol=1e-5)
    assert len(OffsetDefectAugmenter(n_synthetic=1, random_state=0).fit_transform(given, y)) == len(X)


def test_as_many_paths_of_defects_as_of_normal_images_are_images(write_images, squares, cells):
    X, y, _ = squares
    normal = list(map(str, write_images(X[y == 0][:6], "normal")))
    defect = list(map(str, write_images(X[y == 1][:6], "defect")))
    detector = ExDDDetector(cells, random_state=0).fit(normal, defect)
    assert len(detector.classes_) == 2
    assert detector.defect_bank_ is not None
    with pytest.raises(ValueError, match=r"y: expected labels or the paths of defect images, got paths and 'bad'"):
        ExDDDetector(cells).fit(normal, [*defect[:5], "bad"])
    with pytest.raises(FileNotFoundError, match=r"X_defect\[1\] \(gone\.png\): expected an image file"):
        ExDDDetector(cells).fit(normal, [defect[0], "gone.png"])


@pytest.mark.parametrize("in_table", [False, True])
def test_labels_as_texts_stay_labels(in_table, write_images, squares, cells, tmp_path, monkeypatch):
    X, y, _ = squares
    monkeypatch.chdir(tmp_path)
    for name in ("good", "bad"):
        (tmp_path / name).touch()
    labels = np.where(y == 1, "the bad", "good").tolist()
    if in_table:
        labels = pytest.importorskip("pandas").Series(labels, index=range(50, 50 + len(y)))
    detector = ExDDDetector(cells, random_state=0).fit(list(map(str, write_images(X))), labels)
    assert detector.classes_.tolist() == ["good", "the bad"]


GIVERS = {
    "generator": lambda items: (item for item in items),
    "map": lambda items: map(np.asarray, items),
    "zip": lambda items: zip(items),
    "iterator": iter,
    "dict": lambda items: dict(enumerate(items)),
    "values": lambda items: {str(item)[:5]: 1 for item in items}.keys(),
}


@pytest.mark.parametrize("giver", GIVERS)
@pytest.mark.parametrize("parameter", ["X", "y", "X_defect", "masks", "groups", "predict", "predict_map"])
def test_what_has_no_positions_is_refused_with_advice(parameter, giver, squares, cells):
    X, y, masks = squares
    give, name = GIVERS[giver], parameter if not parameter.startswith("predict") else "X"
    detector = ExDDDetector(cells, random_state=0).fit(X, y)
    if parameter.startswith("predict"):
        act, given = getattr(detector, parameter), {"X": give(X)}
    elif parameter == "X_defect":
        act, given = detector.fit, {"X": X, "X_defect": give(X)}
    else:
        act, given = detector.fit, {"X": X, "y": y, "masks": masks, "groups": np.arange(len(X))}
        given[parameter] = give(list(given[parameter]))
    with pytest.raises(ValueError, match=rf"^{name}: expected .* got \w+: pass (list|sorted)\({name}"):
        act(**given)


@pytest.mark.parametrize("values", [["a.png", "b.png"], [np.zeros((20, 20)), np.ones((20, 20))]])
@pytest.mark.parametrize("act", ["fit", "predict"])
def test_a_table_of_images_is_refused_and_its_column_asked_for(act, values, squares, cells):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"label": [0, 1], "path": pd.Series(values, dtype=object)})
    detector = ExDDDetector(cells).fit(squares[0])
    for given, column in ((table, r"X\['path'\]"), (table[["path"]], r"X\['path'\]")):
        with pytest.raises(ValueError, match=rf"^X: expected images: .*got a table of shape .*: pass {column}\.$"):
            getattr(detector, act)(given)
    if isinstance(values[0], str):
        with pytest.raises(ValueError, match=r"in a column: pass X\[:, 0\]"):
            getattr(detector, act)(np.array(values)[:, None])


def test_tables_of_numbers_are_still_feature_rows():
    pd = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    rows = np.random.RandomState(0).rand(20, 3)
    expected = ExDDDetector(random_state=0).fit(rows).score_samples(rows)
    for given in (pd.DataFrame(rows), pd.DataFrame(rows).astype(object), torch.from_numpy(rows).requires_grad_()):
        np.testing.assert_array_equal(ExDDDetector(random_state=0).fit(given).score_samples(given), expected)


@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.parametrize("missing", ["None", "NaN", "NA", "NaT"])
@pytest.mark.parametrize("container", [list, tuple, "Series", "objects"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_image_is_named_and_explained(missing, container, place, squares, cells):
    pd = pytest.importorskip("pandas")
    X, y, _ = squares
    images = list(X)
    images[place] = {"None": None, "NaN": np.nan, "NA": pd.NA, "NaT": pd.NaT}[missing]
    objects = np.empty(len(X), dtype=object)
    objects[:] = images
    given = {"Series": pd.Series(images, dtype=object), "objects": objects}.get(container)
    given = container(images) if given is None else given
    match = rf"^X\[{place}\]: expected an image, got .* \(cv2\.imread returns None for a file that it cannot read\)"
    for act in (lambda: ExDDDetector(cells).fit(given, y), lambda: ExDDDetector(cells).fit(X).predict(given)):
        with pytest.raises(ValueError, match=match):
            act()
    with pytest.raises(ValueError, match=match.replace(r"^X", "^X_defect")):
        ExDDDetector(cells).fit(X, X_defect=given)


def test_nothing_but_missing_images_are_no_numbers(cells):
    with pytest.raises(ValueError, match=r"^X\[0\]: expected an image, got None"):
        ExDDDetector(cells).fit([None, None])


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 1), (64, 64, 3), (64, 64, 4)])
def test_a_single_image_is_not_taken_for_many(shape, squares, cells):
    X = squares[0] if len(shape) == 2 or shape[2] == 1 else np.repeat(squares[0][..., None], 3, axis=3)
    detector = ExDDDetector(cells).fit(X)
    single = np.zeros(shape, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"^X: expected images.*A single image\? Pass X\[None\]"):
        detector.predict(single)
    assert detector.predict(single[None]).shape == (1,)
    with pytest.raises(ValueError, match=r"^X: .* got a single Pillow image: pass \[X\]"):
        detector.predict(Image.fromarray(X[0]))


# Tensors


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16", "bfloat16", "bool", "int64", "int32"])
@pytest.mark.parametrize("whole", [False, True])
def test_tensors_of_every_dtype_are_read(dtype, whole):
    torch = pytest.importorskip("torch")
    levels = torch.arange(30).reshape(1, 5, 6)
    tensor = levels.to(getattr(torch, dtype)) / 32 if "float" in dtype else levels.to(getattr(torch, dtype))
    tensor = tensor.requires_grad_() if "float" in dtype else tensor
    expected = (
        levels.numpy() / 32 if "float" in dtype else levels.numpy() > 0 if dtype == "bool" else levels.numpy() / 255
    )
    np.testing.assert_allclose(Images(tensor if whole else list(tensor))[0][..., 0], expected[0], rtol=1e-6)


def test_a_tensor_without_values_is_refused_by_name():
    torch = pytest.importorskip("torch")
    message = r"^X\[1\]: expected an object that numpy can convert to an array, got Tensor: "
    with pytest.raises(ValueError, match=message):
        Images([torch.zeros(5, 6), torch.zeros(5, 6, device="meta")])
    with pytest.raises(ValueError, match=r"^masks: expected an object that numpy can convert"):
        ExDDDetector().fit(np.zeros((2, 64, 64)), [0, 1], masks=torch.zeros(2, 64, 64, device="meta"))


# Groups


def same_groups(one, other):
    return np.array_equal(np.equal.outer(one, one), np.equal.outer(other, other))


@pytest.mark.parametrize("blank", [None, np.nan, "", "  ", "NA"])
@pytest.mark.parametrize("container", [list, tuple, "Series", "objects"])
def test_samples_without_a_group_are_groups_of_their_own(blank, container):
    pd = pytest.importorskip("pandas")
    from sklearn_exdd._training_set import group_numbers

    blank = pd.NA if blank == "NA" else blank
    groups = ["b", blank, "a", "b", blank, "a"]
    objects = np.empty(6, dtype=object)
    objects[:] = groups
    given = {"Series": pd.Series(groups, index=[5, 4, 3, 2, 1, 0], dtype=object), "objects": objects}.get(container)
    given = container(groups) if given is None else given
    assert same_groups(group_numbers(given, 6), np.array([0, 1, 2, 0, 3, 2]))
    assert same_groups(group_numbers([blank] * 6, 6), np.arange(6))
    numbers = [2.0, np.nan, 7.0, 2.0, np.nan, 7.0]
    assert same_groups(group_numbers(np.array(numbers), 6), np.array([0, 1, 2, 0, 3, 2]))


def test_blank_groups_do_not_count_as_one_part(squares, cells):
    X, y, _ = squares
    expected = ExDDDetector(cells, random_state=0).fit(X, y)
    for blank in (None, "", np.nan):
        detector = ExDDDetector(cells, random_state=0).fit(X, y, groups=[blank] * len(X))
        assert detector.threshold_ == expected.threshold_


# Feature extractors


class Overflowing(BaseEstimator):
    def transform(self, images):
        cells = images.reshape(len(images), 8, 8, 8, 8, -1).mean(axis=(2, 4))
        return np.where(cells > 0.9, np.nan, cells)


def test_nan_of_an_extractor_names_the_image_and_the_extractor(squares):
    X, y, _ = squares
    bright = np.full((64, 64), 255, np.uint8)
    match = r"^X\[{}\]: expected numbers as features, got NaN from feature_extractor Overflowing"
    detector = ExDDDetector(Overflowing(), random_state=0).fit(X[y == 0])
    for method in (detector.predict, detector.predict_map):
        with pytest.raises(ValueError, match=match.format(1)):
            method([X[0], bright])
    with pytest.raises(ValueError, match=match.format(3)):
        ExDDDetector(Overflowing()).fit([*X[:3], bright])
    with pytest.raises(ValueError, match=r"^X_defect\[0\]: expected numbers as features, got NaN"):
        ExDDDetector(Overflowing()).fit(X[y == 0], [bright])


# Missing and masked entries

MISSING = [None, np.nan, np.float32("nan"), np.datetime64("NaT"), np.timedelta64("NaT"), Decimal("NaN"), "", " ", b""]


def with_pandas(values):
    pd = pytest.importorskip("pandas")
    return [*values, pd.NA, pd.NaT]


def test_every_sign_for_a_missing_entry_means_the_same(squares, cells):
    X, y, masks = squares
    listed = [mask if label else None for mask, label in zip(masks, y)]
    groups = [f"part {i // 3}" for i in range(len(X))]
    own = group_numbers([*groups[:4], "alone", *groups[5:]], len(X))
    for sign in with_pandas(MISSING):
        numbers = group_numbers([*groups[:4], sign, *groups[5:]], len(X))
        assert same_parts(numbers, own), repr(sign)
        given = Masks([sign if mask is None else mask for mask in listed], len(X))
        assert [given.get(i) is None for i in range(len(X))] == [mask is None for mask in listed]
        with pytest.raises(ValueError, match=r"X\[2\]: expected an image, got .*leave out the image and its label"):
            Images([*X[:2], sign, *X[3:]])
        labels = np.where(y == 1, "bad", "good").tolist()
        for fit in (ExDDDetector(cells).fit, OffsetDefectAugmenter().fit):
            with pytest.raises(ValueError, match=r"y\[3\]: expected a label, got .*; Input y contains NaN"):
                fit(X, [*labels[:3], sign, *labels[4:]])


def same_parts(numbers, others):
    return len(set(zip(numbers, others))) == len(set(numbers)) == len(set(others))


@pytest.mark.parametrize("form", ["Series", "Int64", "float", "object", "category", "column", "table", "masked", "NaT"])
def test_groups_with_missing_entries_in_every_container(form):
    pd = pytest.importorskip("pandas")
    groups, is_missing = np.arange(12) // 3, np.arange(12) // 3 == 2
    floats = np.where(is_missing, np.nan, groups)
    names = [None if missing else f"part {group}" for group, missing in zip(groups, is_missing)]
    dates = np.datetime64("2020-01-01") + groups
    dates[is_missing] = np.datetime64("NaT")
    given = {
        "Series": pd.Series(names, index=range(12, 0, -1)),
        "Int64": pd.Series(floats).astype("Int64"),
        "float": floats,
        "object": np.array(names, dtype=object),
        "category": pd.Series(names, dtype="category"),
        "column": floats[:, None],
        "table": pd.DataFrame({"group": names}),
        "masked": np.ma.masked_array(groups, mask=is_missing),
        "NaT": dates,
    }[form]
    expected = groups.copy()
    expected[is_missing] = [100, 101, 102]
    assert same_parts(group_numbers(given, 12), expected)


@pytest.mark.parametrize(
    "groups",
    [list("abcabc"), [1, 2, 3] * 2, ["1", 2, 3, 1, "2", "3"], [(0, 1), (1, 0), (1, 1)] * 2, [[5], [6], [7]] * 2],
)
def test_groups_of_every_kind_are_numbered(groups):
    assert same_parts(group_numbers(groups, 6), [0, 1, 2] * 2)


def test_groups_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^groups: expected one group for each sample of X, got .* shape \(6, 2\)"):
        group_numbers(np.zeros((6, 2)), 6)
    with pytest.raises(ValueError, match=r"^groups: expected texts or numbers, got values that cannot be compared"):
        group_numbers([np.zeros(2)] * 6, 6)


@pytest.mark.parametrize("container", [np.ma.stack, list])
def test_masked_values_are_refused_and_a_mask_without_any_is_not(container, squares, cells):
    X, y, masks = squares
    maps = X.astype(float)
    hide = np.zeros(X.shape, dtype=bool)
    open_ones = [container([np.ma.masked_array(a, mask=m) for a, m in zip(A, hide)]) for A in (X, masks, maps)]
    detector = ExDDDetector(cells, random_state=0).fit(open_ones[0], y, masks=open_ones[1])
    expected = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    np.testing.assert_array_equal(detector.score_samples(open_ones[0]), expected.score_samples(X))
    hide[int(np.argmax(y)), :2] = True
    hidden = [container([np.ma.masked_array(a, mask=m) for a, m in zip(A, hide)]) for A in (X, masks, maps)]
    message = r"(\[\d+\])?: expected a value everywhere, got a masked array with \d+ masked values"
    for name, call in (
        ("X", lambda: ExDDDetector(cells).fit(hidden[0], y)),
        ("masks", lambda: ExDDDetector(cells).fit(X, y, masks=hidden[1])),
        ("masks", lambda: pixel_roc_auc_score(hidden[1], maps)),
        ("maps", lambda: pixel_roc_auc_score(masks, hidden[2])),
    ):
        with pytest.raises(ValueError, match=f"^{name}" + message):
            call()
    for fit in (ExDDDetector(cells).fit, OffsetDefectAugmenter().fit):
        with pytest.raises(ValueError, match="^y" + message):
            fit(X, np.ma.masked_array(y, mask=y == 1))


@pytest.mark.parametrize("form", ["rows", "images", "correction"])
def test_labels_are_read_alike_beside_images_and_feature_rows(form, squares, cells):
    X, y, _ = squares
    X = X.reshape(len(X), -1)[:, ::97] / 255 if form == "rows" else X
    if form == "correction":
        fitted = ExDDDetector(cells, random_state=0).fit(X, y)

        def fit(X, y):
            return clone_of(fitted).partial_fit(X, y)

    else:

        def fit(X, y):
            return ExDDDetector(cells if form == "images" else "auto", random_state=0).fit(X, y)

    expected = fit(X, y).score_samples(X)
    for given in (y.astype(object), y.tolist(), y.astype(float), y == 1):
        np.testing.assert_array_equal(fit(X, given).score_samples(X), expected)
    for sign in with_pandas(MISSING):
        with pytest.raises(ValueError, match=r"^y\[3\]: expected a label, got .*; Input y contains NaN"):
            fit(X, [*y[:3], sign, *y[4:]])
    with pytest.raises(ValueError, match=r"^y: expected a value everywhere, got a masked array"):
        fit(X, np.ma.masked_array(y, mask=y == 1))
    with pytest.raises(ValueError, match=r"^y: expected a list or an array; got generator: pass list\(y\)"):
        fit(X, (label for label in y))
    with pytest.raises(ValueError, match=r"^y should be a 1d array, .* A single defect image\? Pass y\[None\]"):
        fit(X, np.zeros((len(X), 9)))
    with pytest.raises(ValueError, match=rf"^y: expected {len(X)} labels, one for each sample of X, got 3"):
        fit(X, y[:3])
    if form == "rows":
        with pytest.raises(ValueError, match=r"^X: expected a value everywhere, got a masked array with"):
            fit(np.ma.masked_equal(X, X.max()), y)


def clone_of(fitted):
    return pickle.loads(pickle.dumps(fitted))


# Descriptions of invalid input


@pytest.mark.parametrize(
    ("X", "came"),
    [
        ([b"a.png", b"b.png"], r"got list of bytes, such as b'a\.png' at 0: decode them with os\.fsdecode"),
        (np.array([b"a.png"]), r"got an array of shape \(1,\) of bytes, such as .* os\.fsdecode"),
        ([["a.png"], ["b.png"]], r"got list, which holds list \['a\.png'\] at 0"),
        ([None, 3.5], r"got list, which holds float 3\.5 at 1"),
        ([np.array("a.png")], r"got list, which holds an array of shape \(\) at 0"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_is_described(X, came):
    with pytest.raises(ValueError, match=rf"^X: expected images: .*; {came}"):
        Images(X)


@pytest.mark.parametrize("read", [lambda item: Images([np.ones((4, 4)), item]), lambda item: Masks([None, item], 2)])
def test_a_sparse_matrix_is_refused_with_a_remedy(read):
    with pytest.raises(ValueError, match=r"\[1\]: expected an object that .*, got csr_matrix\. Pass .*\.toarray\(\)"):
        read(csr_matrix(np.eye(4)))


@pytest.mark.parametrize("name", ["X", "masks", "maps"])
def test_a_table_says_which_column_to_pass(name, squares, cells):
    pd = pytest.importorskip("pandas")
    X, y, masks = squares
    table = pd.DataFrame({"no": list({"X": X, "masks": masks, "maps": X / 2}[name])})
    call = {
        "X": lambda: ExDDDetector(cells).fit(table, y),
        "masks": lambda: ExDDDetector(cells).fit(X, y, masks=table),
        "maps": lambda: pixel_roc_auc_score(masks, table),
    }[name]
    with pytest.raises(ValueError, match=rf"^{name}: expected .*; got a table of shape .*: pass {name}\['no'\]"):
        call()
