"""Command ``export``: write a model as a single ONNX file."""

from sklearn_exdd.cli import model
from sklearn_exdd.cli.command import DONE
from sklearn_exdd.export import to_onnx


def run(options):
    """Write the ONNX file."""
    path = model.check_place(options.out)
    detector = model.load(options.model)
    try:
        to_onnx(detector, path, dtype=options.dtype, layout=options.layout)
    except TypeError as error:
        raise ValueError(f"{options.model}: {error}") from error
    print(
        f"{type(detector).__name__} written to {path}, {path.stat().st_size / 1e6:.1f} MB: image ({options.dtype}, "
        f"{options.layout}, channels: {detector.n_channels_}) -> score, decision, "
        "is_defect, p_value, anomaly_map, mask."
    )
    return DONE
