"""Findings: what a check has found in a set of images."""

from dataclasses import dataclass

_N_NAMED = 4  # images that a line names


@dataclass(frozen=True)
class Finding:
    """Something in a set of images that should be looked at before fit.

    Attributes
    ----------
    kind : str
        Such as "duplicate" or "mask_empty"; :func:`check_images` lists them.
    severity : {"error", "warning"}
        An error makes `fit` fail or figures wrong. A warning may be right as it is.
    indices : tuple of int
        Positions of the images in X.
    images : tuple of str
        Their paths, or "X[3]" for an image in memory.
    message : str
        Description of the finding, and the remedy.

    Examples
    --------
    >>> from sklearn_exdd.datasets import Finding
    >>> print(Finding("mask_empty", "warning", (3,), ("X[3]",), "The mask of a defect marks nothing. Draw it."))
    warning  mask_empty: The mask of a defect marks nothing. Draw it.
        X[3]
    """

    kind: str
    severity: str
    indices: tuple
    images: tuple
    message: str

    def __str__(self):
        named = ", ".join(self.images[:_N_NAMED])
        n_more = len(self.images) - _N_NAMED
        lines = [f"{self.severity}  {self.kind}: {self.message}"]
        if self.images:
            lines.append(f"    {named}{f' and {n_more} more' if n_more > 0 else ''}")
        return "\n".join(lines)


class Findings(list):
    """List of :class:`Finding`, errors first. ``print`` shows it as text.

    Parameters
    ----------
    findings : iterable of Finding
    n_images : int
        Number of images that were checked.
    not_checked : list of str, default=()
        Checks that were left out, with the reasons.

    Attributes
    ----------
    n_images : int
    not_checked : list of str

    Examples
    --------
    >>> from sklearn_exdd.datasets import Finding, Findings
    >>> found = Findings([Finding("blank", "error", (0,), ("X[0]",), "All pixels are equal.")], n_images=9)
    >>> print(found)
    9 images checked: 1 error, 0 warnings.
    error  blank: All pixels are equal.
        X[0]
    >>> len(found.errors)
    1
    """

    def __init__(self, findings, n_images, not_checked=()):
        super().__init__(sorted(findings, key=lambda finding: finding.severity != "error"))
        self.n_images, self.not_checked = n_images, list(not_checked)

    @property
    def errors(self):
        """The findings that make `fit` fail or figures wrong."""
        return [finding for finding in self if finding.severity == "error"]

    def summary(self):
        """Return the numbers of images, errors and warnings as a sentence."""
        n_errors, n_warnings = len(self.errors), len(self) - len(self.errors)
        return (
            f"{_count(self.n_images, 'image')} checked: {_count(n_errors, 'error')}, {_count(n_warnings, 'warning')}."
        )

    def _counts(self):
        return (len(self.errors), "error"), (len(self) - len(self.errors), "warning")

    def __str__(self):
        return "\n".join([self.summary(), *map(str, self), *(f"Not checked: {text}" for text in self.not_checked)])


def _count(n, noun):
    return f"{n} {noun}{'' if n == 1 else 's'}"
