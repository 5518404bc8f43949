"""Comparison of the speed of this library with the speed of other libraries, on one thread.

    pip install "sklearn_exdd[benchmark]"
    python benchmarks/performance.py                 # all rows: three quarters of an hour on one core
    python benchmarks/performance.py coreset import  # some rows

This library and its peer take turns in one process. For fits, all runs of the peer come first. Times are CPU seconds of
the process, because other work on the machine disturbs them less than the wall time. They are medians of five runs
unless stated otherwise. Runs that would take too long are extrapolated, and the table marks them. Random weights of
backbones do not change the cost. With EXDD_DATA=FOLDER, as for ``real_data.py``, "precision" has more rows.

Every row is saved in ``results/performance.json`` as soon as it is measured. ``results/performance.md`` contains the
table of all saved rows.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
from nearest_neighbors import patch_like
from threadpoolctl import threadpool_limits

LAYERS = ["layer2", "layer3"]


def by_turns(*functions, n_runs=5):
    """Return the median (CPU, wall) seconds of each function. The first of several runs does not count."""
    taken = [[] for _ in functions]
    for run in range(n_runs + (n_runs > 1)):
        for times, function in zip(taken, functions):
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
            if run == 0 and n_runs > 1:
                times.clear()
    return [tuple(map(float, np.median(times, axis=0))) for times in taken]


def row(work, ours, peer="", theirs=None, goal=None, note=""):
    """Return a row: (CPU, wall) seconds of both sides, or a difference. Without a peer, the goal is a limit."""
    return {"work": work, "peer": peer, "ours": ours, "theirs": theirs, "goal": goal, "note": note}


def surfaces(n_images, seed=0):
    """Return normal surfaces of 256 x 256 pixels with three channels."""
    from sklearn_exdd.datasets import make_surface_defects

    X = make_surface_defects(n_images, defect_fraction=0, image_shape=(256, 256), random_state=seed)[0]
    return np.repeat(X[..., None], 3, axis=3)


def extractor_of(backbone, precision="auto", **params):
    from sklearn_exdd import TorchvisionFeatureExtractor

    return TorchvisionFeatureExtractor(backbone, weights=None, precision=precision, **params)


def detector_of(backbone, precision="auto", **params):
    from sklearn_exdd import ExDDDetector

    detector = ExDDDetector(extractor_of(backbone, precision), n_neighbors=1, random_state=0, **params)
    detector.feature_extractor.transform(surfaces(1))  # builds the network
    return detector


def patchcore_of(backbone):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        return PatchcoreModel(LAYERS, backbone, pre_trained=False, num_neighbors=9).eval()


def tensor_of(X):
    """Preprocess images as anomalib does. This step is not timed."""
    import torch

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(X).permute(0, 3, 1, 2) / 255 - mean) / std


def greedy_steps(sampler, n_steps=40):
    """Return a function that runs steps of anomalib's greedy selection with a sampler, and the number of steps."""
    import torch

    index = torch.tensor(0)
    sampler.reset_distances()

    def run():
        nonlocal index
        for _ in range(n_steps):  # as in KCenterGreedy.select_coreset_idxs
            sampler.update_distances(cluster_center=index)
            index = sampler.get_new_idx()
            sampler.min_distances.scatter_(0, index.unsqueeze(0).unsqueeze(1), 0.0)

    return run, n_steps


# The rows


def coreset():
    import torch
    from anomalib.models.components import KCenterGreedy

    from sklearn_exdd.coreset import greedy_k_center

    X = patch_like(102_400, 284, np.random.default_rng(0))
    sampler = KCenterGreedy(torch.from_numpy(X), 0.01)
    sampler.features = torch.from_numpy(X)
    steps, n_steps = greedy_steps(sampler)
    for share, n_runs in ((0.01, 5), (0.1, 1)):
        n_select = int(share * len(X))
        ours, theirs = by_turns(lambda n=n_select: greedy_k_center(X, n), steps, n_runs=n_runs)
        theirs = tuple(seconds * n_select / n_steps for seconds in theirs)
        note = f"theirs extrapolated from {n_steps} steps" + (", ours once" if n_runs == 1 else "")
        yield row(f"greedy k-centre, 102 400 x 284, {share:.0%}", ours, "KCenterGreedy", theirs, 50, note)


def features():
    from sklearn_exdd import GaborFeatureExtractor

    X = surfaces(8)
    images, filters = tensor_of(X), GaborFeatureExtractor().fit(X)
    yield row("embedded filters, batch of 1", by_turns(lambda: filters.transform(X[:1]))[0])
    for backbone in ("resnet18", "wide_resnet50_2"):
        network = patchcore_of(backbone).feature_extractor
        for n_images in (1, 8):
            both = [extractor_of(backbone, precision) for precision in ("auto", "float32")]
            calls = [lambda e=extractor, n=n_images: e.transform(X[:n]) for extractor in both]
            *ours, theirs = by_turns(*calls, lambda network=network, n=n_images: network(images[:n]))
            for extractor, own in zip(both, ours):
                name = f"features of {backbone}, {extractor._resolved_precision()}, batch of {n_images}"
                yield row(name, own, "its backbone alone", theirs)


def fit():
    import torch
    from anomalib.models.components import KCenterGreedy

    X = surfaces(100)
    images = tensor_of(X)
    backbones = {
        "wide_resnet50_2": [(0.1, "auto", 40), (0.1, "float32", 15), (0.01, "auto", 9), (0.01, "float32", 3)],
        "resnet18": [(0.01, "auto", 20)],
    }

    def peer(backbone):
        """Return the peer's (CPU, wall) seconds for features and for one step, and the numbers of steps and patches."""
        model, embeddings = patchcore_of(backbone), []
        model.training = True  # sets only the mode of the model itself, so that forward collects embeddings

        def extract():
            model.embedding_store.clear()
            embeddings[:] = [torch.vstack([model(batch) for batch in images.split(32)])]

        (extracted,) = by_turns(extract)
        sampler = KCenterGreedy(embeddings[0], 0.01)

        def project():
            sampler.model.fit(embeddings[0])
            sampler.features = sampler.model.transform(embeddings[0])

        project()
        steps, n_steps = greedy_steps(sampler)
        projected, stepped = by_turns(project, steps)
        return np.add(extracted, projected), np.divide(stepped, n_steps), n_steps, len(embeddings[0])

    # All runs of the peer come first. Otherwise, its large temporary arrays might reuse memory freed by this library.
    peers = {backbone: peer(backbone) for backbone in backbones}
    for backbone, cases in backbones.items():
        detectors = [
            detector_of(backbone, precision, coreset="greedy", normal_coreset=share) for share, precision, _ in cases
        ]
        ours = by_turns(*(lambda detector=detector: detector.fit(X) for detector in detectors))
        prepared, step, n_steps, n_patches = peers[backbone]
        for (share, precision, goal), own in zip(cases, ours):
            theirs = tuple((prepared + int(share * n_patches) * step).tolist())
            name = extractor_of(backbone, precision)._resolved_precision()
            note = f"their selection extrapolated from {n_steps} steps; ours with the threshold"
            yield row(
                f"fit, 100 images, {backbone}, {share:.0%} greedy, {name}", own, "PatchcoreModel", theirs, goal, note
            )


def predict():
    import torch

    X, X_test = surfaces(12), surfaces(8, seed=1)
    images, images_test = tensor_of(X), tensor_of(X_test)
    model = patchcore_of("wide_resnet50_2")
    model.training = True
    embedding = torch.vstack([model(batch) for batch in images.split(4)])
    model.eval()
    for n_rows in (10_240, 1_024):
        model.memory_bank = embedding[
            torch.randperm(len(embedding), generator=torch.Generator().manual_seed(0))[:n_rows]
        ]
        detectors = [detector_of("wide_resnet50_2", name, normal_coreset=n_rows).fit(X) for name in ("auto", "float32")]
        goals = (4, 2) if n_rows == 10_240 else (3, 1.3)
        for n_images in (1, 8):
            calls = [lambda d=d, n=n_images: d.predict_map(X_test[:n]) for d in detectors]
            *ours, theirs = by_turns(*calls, lambda model=model, n=n_images: model(images_test[:n]))
            for detector, own, goal in zip(detectors, ours, goals):
                name = detector.feature_extractor_.precision_
                work = f"map of {n_images} image{'s' * (n_images > 1)}, bank of {n_rows} x 1536, {name}"
                yield row(work, own, "PatchcoreModel", theirs, goal)


def neighbours():
    import faiss
    from sklearn.neighbors import NearestNeighbors

    from sklearn_exdd import MemoryBank

    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    maps = extractor_of("wide_resnet50_2").transform(np.concatenate([surfaces(12), surfaces(1, seed=1)]))
    patches = np.concatenate([one.reshape(-1, one.shape[2]) for one in maps[:-1]])
    noise = rng.standard_normal((10_240 + 1024, 1536), dtype=np.float32)
    for kind, rows, queries in (
        ("patches of wide_resnet50_2", rng.permutation(patches)[:10_240], maps[-1].reshape(-1, 1536)),
        ("white noise, nothing to prune", noise[:10_240], noise[10_240:]),
    ):
        bank, brute = MemoryBank(rows), NearestNeighbors(n_neighbors=1, algorithm="brute").fit(rows)
        flat = faiss.IndexFlatL2(1536)
        flat.add(rows)
        np.testing.assert_allclose(bank.kneighbors(queries)[0], brute.kneighbors(queries)[0], rtol=1e-3)
        ours, *theirs = by_turns(
            *(lambda search=search, queries=queries: search(queries) for search in (bank.kneighbors, brute.kneighbors)),
            lambda flat=flat, queries=queries: flat.search(queries, 1),
        )
        for peer, times in zip(("scikit-learn, brute force", "FAISS, IndexFlatL2"), theirs):
            yield row(f"nearest of 10 240 x 1536 for 1024 queries: {kind}", ours, peer, times, 3)


def index():
    from sklearn_exdd import MemoryBank

    rng = np.random.default_rng(1)
    rows, queries = patch_like(200_000, 50, rng), patch_like(1024, 50, rng)
    brute, approximate = (MemoryBank(rows, algorithm=name) for name in ("brute", "pynndescent"))
    (built,) = by_turns(lambda: approximate.kneighbors(queries), n_runs=1)
    recalls = []
    for k in (1, 3, 9):
        exact, found = brute.kneighbors(queries, k)[1], approximate.kneighbors(queries, k)[1]
        recalls.append(np.mean([len(set(own) & set(true)) / k for own, true in zip(found, exact)]))
    ours, theirs = by_turns(lambda: approximate.kneighbors(queries), lambda: brute.kneighbors(queries))
    note = f"recall@1, 3, 9: {', '.join(f'{recall:.3f}' for recall in recalls)}; compiled and built in {built[0]:.0f} s"
    yield row("1024 queries, 200 000 x 50, pynndescent", ours, "our brute force", theirs, 5, note)


def search():
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector
    from sklearn_exdd.datasets import make_surface_defects

    X, y, _ = make_surface_defects(60, image_shape=(256, 256), random_state=0)

    def pipeline(memory, n_synthetic):
        detector = ExDDDetector(extractor_of("wide_resnet50_2", memory=memory), memory=memory, random_state=0)
        augmenter = CutPasteDefectAugmenter(n_synthetic=n_synthetic, random_state=0)
        return make_pipeline(augmenter, detector, memory=memory)

    grid = {
        "exdddetector__n_neighbors": [1, 3, 9],
        "exdddetector__epsilon": ["scale", 1e-6, 1e-2, 1.0],
        "cutpastedefectaugmenter__n_synthetic": [0, 20],
    }
    pipeline(None, 20).fit(X[:20], y[:20]).predict(X[:1])
    (one,) = by_turns(lambda: pipeline(None, 20).fit(X, y).predict(X), n_runs=1)
    with tempfile.TemporaryDirectory() as folder:
        searching = GridSearchCV(pipeline(folder, 20), grid, cv=5, scoring="roc_auc", refit=False)
        (ours,) = by_turns(lambda: searching.fit(X, y), n_runs=1)
    plain = tuple(seconds * 24 * 5 for seconds in one)
    note = f"{ours[0] / one[0]:.1f} x one fit and predict of all images (goal: 2); theirs: 120 times that, extrapolated"
    yield row(
        "24 candidates x 5 folds, 60 images, wide_resnet50_2", ours, "the Pipeline without memory", plain, None, note
    )


def _seconds_of(code, n_runs=5):
    """Return the median (CPU, wall) seconds of new processes, and the output of the last process."""
    taken, alone = [], {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(n_runs):
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, env=alone, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        taken.append((cpu, time.perf_counter() - wall))
    return tuple(map(float, np.median(taken, axis=0))), done.stdout


def imports():
    empty, _ = _seconds_of("")
    for ours, theirs, goal in (
        ("import sklearn_exdd", "import anomalib", None),
        ("from sklearn_exdd import ExDDDetector", "from anomalib.models import Patchcore", 10),
    ):
        own, other = (tuple(np.subtract(_seconds_of(code)[0], empty).tolist()) for code in (ours, theirs))
        yield row(f"`{ours}`", own, f"`{theirs}`", other, goal, "fresh processes, less one that does nothing")


FIRST = """
import json, time
import joblib, numpy as np, torch
times = [time.process_time()]
detector = joblib.load({path!r})
X = np.load({images!r})
times.append(time.process_time())
detector.feature_extractor_.transform(X)
times.append(time.process_time())
for _ in range(2):
    detector.predict(X)
    times.append(time.process_time())
print(json.dumps(np.diff(times).tolist()))
"""


def unpickled():
    from sklearn_exdd import ExDDDetector

    X = surfaces(12)
    for name, detector in (
        ("embedded filters, 5000 rows", ExDDDetector("gabor", random_state=0)),
        ("wide_resnet50_2, 10 240 x 1536", detector_of("wide_resnet50_2", normal_coreset=10_240)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path, images = os.path.join(folder, "detector"), os.path.join(folder, "images.npy")
            joblib.dump(detector.fit(X), path)
            np.save(images, X[:1])
            code = FIRST.format(path=path, images=images)
            runs = np.median([json.loads(_seconds_of(code, 1)[1].splitlines()[-1]) for _ in range(5)], axis=0)
        loaded, network, first, second = map(float, runs)
        note = (
            f"file {loaded:.2f} s, then network and first features {network:.2f} s; a later prediction {second:.2f} s"
        )
        beyond = (first - second,) * 2
        yield row(f"first prediction after loading, beyond a later one: {name}", beyond, goal=0.5, note=note)


def precision():
    from sklearn_exdd.datasets import make_surface_defects

    X, y, masks = make_surface_defects(400, image_shape=(128, 128), random_state=0)
    sets = [values[part] for part in (slice(100), slice(100, None)) for values in (X, y, masks)]
    yield from differences("300 synthetic surfaces", "resnet18", 3, *sets)
    if "EXDD_DATA" in os.environ:
        from real_data import load, splits

        data = load(os.environ["EXDD_DATA"])
        train, test = next(splits(data, "development", 2, 0))
        for backbone, step in (("resnet18", 1), ("wide_resnet50_2", 4)):
            sets, groups = [], data.groups[train[::step]]
            for rows in (train[::step], test[::step]):
                sets += [[data.X[i] for i in rows], data.y[rows], [data.pixels[i] for i in rows]]
            name = f"{len(sets[3])} images of EXDD_DATA, by groups"
            yield from differences(name, backbone, 1, *sets, groups=groups, image_size=224)


def differences(name, backbone, n_seeds, X, y, masks, X_test, y_test, masks_test, groups=None, **params):
    """Yield rows with the difference of AUROC (images and pixels) between bfloat16 and float32, for several seeds."""
    from sklearn.metrics import roc_auc_score

    from sklearn_exdd import ExDDDetector
    from sklearn_exdd.metrics import pixel_roc_auc_score

    found = []
    for seed in range(n_seeds):
        areas = []
        for precision in ("bfloat16", "float32"):
            with tempfile.TemporaryDirectory() as folder:  # so that features of the test images are computed only once
                extractor = extractor_of(backbone, precision, random_state=seed, **params)
                detector = ExDDDetector(extractor, memory=folder, random_state=seed)
                detector.fit(X, y, masks=masks, groups=groups)
                scores, maps = detector.score_samples(X_test), detector.predict_map(X_test)
            areas.append([roc_auc_score(y_test, scores), pixel_roc_auc_score(masks_test, maps)])
        found.append(np.subtract(*areas))
    for kind, values in zip(("image", "pixel"), np.transpose(found)):
        seeds = f"seeds {', '.join(f'{value:+.4f}' for value in values)}" if n_seeds > 1 else "one seed"
        work = f"{kind} AUROC, bfloat16 less float32, {backbone}: {name}"
        note = f"{seeds}; float32 {areas[1][kind == 'pixel']:.3f}"
        yield row(work, float(values.mean()), goal=0.002, note=note)


ROWS = {
    "coreset": coreset,
    "features": features,
    "fit": fit,
    "predict": predict,
    "neighbours": neighbours,
    "index": index,
    "search": search,
    "import": imports,
    "unpickled": unpickled,
    "precision": precision,
}


def machine():
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    instructions = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in info]
    libraries = ("torch", "numpy", "scikit-learn", "anomalib", "faiss-cpu", "pynndescent")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    processor = f"{names[0]} ({', '.join(instructions)})" if names else platform.processor()
    return f"One thread of {processor}; Python {platform.python_version()}, {versions}."


def seconds(times):
    if times is None:
        return ""
    if isinstance(times, float):
        return f"{times:+.4f}"
    cpu = times[0]
    return f"{1000 * cpu:.0f} ms" if cpu < 1 else f"{cpu:.3g} s"


def table(results):
    lines = ["| work | ours | peer | theirs | ratio | goal | |", "|---|---|---|---|---|---|---|"]
    for one in (one for rows in results["rows"].values() for one in rows):
        own, theirs, goal = one["ours"], one["theirs"], one["goal"] or ""
        value, ours, ratio = abs(own) if isinstance(own, float) else own[0], seconds(own), ""
        if theirs:
            ratio = f"{theirs[0] / value:.1f} x"
            ratio = f"**{ratio}**" if goal and theirs[0] / value >= goal else ratio
            goal = f"{goal} x" if goal else ""
        elif goal:
            ours = f"**{ours}**" if value < goal else ours
            goal = goal if isinstance(own, float) else f"{goal} s"
        cells = (one["work"], ours, one["peer"], seconds(theirs), ratio, goal, one["note"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([results["machine"], "", *lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(ROWS)}; all by default")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for performance.json and .md")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"rows: expected some of {list(ROWS)}, got {sorted(unknown)}")
    os.environ["NUMBA_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "performance.json"
    results = json.loads(path.read_text()) if path.is_file() else {"rows": {}}
    results["machine"] = machine()
    with threadpool_limits(1):
        for name in arguments.rows or ROWS:
            started = time.process_time()
            results["rows"][name] = list(ROWS[name]())
            results["rows"] = {name: results["rows"][name] for name in ROWS if name in results["rows"]}
            path.write_text(json.dumps(results, indent=1))
            path.with_suffix(".md").write_text(table(results))
            print(f"{name}: {time.process_time() - started:.0f} CPU seconds", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
