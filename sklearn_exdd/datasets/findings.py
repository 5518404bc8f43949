"""Findings of a check of images."""

from dataclasses import dataclass

_N_NAMED = 4  # maximum number of images that the text of a finding names


@dataclass(frozen=True)
class Finding:
    """Possible mistake in a set of images.

    Attributes
    ----------
    kind : str
        Kind of mistake, such as "duplicate" or "mask_empty". The documentation of :func:`check_images` lists all kinds.
    severity : {"error", "warning"}
        Severity. An error makes `fit` fail or makes the computed metrics wrong. A warning may be harmless.
    indices : tuple of int
        Positions in `X` of the images with the mistake.
    images : tuple of str
        Names of these images. The name is the path of an image file, or text such as "X[3]" for an image in memory.
    message : str
        Description of the mistake and its remedy.

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
    """List of :class:`Finding`, with errors before warnings. ``print`` shows the list as text.

    Parameters
    ----------
    findings : iterable of Finding
        Findings in any order.
    n_images : int
        Number of images that were checked.
    not_checked : list of str, default=()
        Checks that were skipped, each with the reason.

    Attributes
    ----------
    n_images : int
        Number of images that were checked.
    not_checked : list of str
        Checks that were skipped, each with the reason.

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
        """Findings that make `fit` fail or make the computed metrics wrong."""
        return [finding for finding in self if finding.severity == "error"]

    def summary(self):
        """Return a sentence that gives the numbers of images, errors and warnings."""
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
