"""Feature extractors, which turn images into feature maps."""

from sklearn.base import clone

from sklearn_exdd.features.base import BaseFeatureExtractor
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLiteFeatureExtractor
from sklearn_exdd.features.foreign import ForeignFeatureExtractor
from sklearn_exdd.features.gabor import GaborFeatureExtractor
from sklearn_exdd.features.learned import LearnedFeatureExtractor
from sklearn_exdd.features.module import ModuleFeatureExtractor
from sklearn_exdd.features.timm import TimmFeatureExtractor
from sklearn_exdd.features.torchvision import TorchvisionFeatureExtractor

__all__ = [
    "BaseFeatureExtractor",
    "EfficientNetLiteFeatureExtractor",
    "GaborFeatureExtractor",
    "LearnedFeatureExtractor",
    "ModuleFeatureExtractor",
    "TimmFeatureExtractor",
    "TorchvisionFeatureExtractor",
    "make_feature_extractor",
]


def make_feature_extractor(extractor="auto", **defaults):
    """Make a feature extractor from the value of a detector's `feature_extractor` parameter.

    Parameters
    ----------
    extractor : str or object, default="auto"
        Object with a method ``transform(images)``, which is cloned, or one of these names:

        * "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2"
        * "auto", which means "efficientnet_lite0"
        * "gabor"
        * "learned"
        * the name of a torchvision model
        * "timm:" followed by the name of a timm model
    **defaults
        Values of parameters such as `batch_size` and `memory`. An extractor made from a name gets every value that it
        has a parameter for. If `extractor` is an object, a value is used only if the object's parameter of this name is
        None.

    Returns
    -------
    extractor : BaseFeatureExtractor

    Examples
    --------
    >>> from sklearn_exdd.features import make_feature_extractor
    >>> make_feature_extractor("resnet18")
    TorchvisionFeatureExtractor(backbone='resnet18')
    """
    if not isinstance(extractor, str):
        if isinstance(extractor, type) or not hasattr(extractor, "transform"):
            raise TypeError(
                "feature_extractor: expected a name or an object with transform(images), "
                f"got {type(extractor).__name__}."
            )
        made = clone(extractor) if isinstance(extractor, BaseFeatureExtractor) else ForeignFeatureExtractor(extractor)
        defaults = {name: value for name, value in defaults.items() if made.get_params(deep=False).get(name, 0) is None}
    elif extractor == "auto":
        made = EfficientNetLiteFeatureExtractor()
    elif extractor == "gabor":
        made = GaborFeatureExtractor()
    elif extractor == "learned":
        made = LearnedFeatureExtractor()
    elif extractor in EFFICIENTNET_LITE:
        made = EfficientNetLiteFeatureExtractor(extractor)
    elif extractor.startswith("timm:"):
        made = TimmFeatureExtractor(extractor.removeprefix("timm:"))
    else:
        made = TorchvisionFeatureExtractor(extractor)
    known = made.get_params(deep=False)
    return made.set_params(**{name: value for name, value in defaults.items() if name in known and value is not None})
