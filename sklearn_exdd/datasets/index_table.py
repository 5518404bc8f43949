"""Reader of the table index.csv: its text, its rows, and the files named in the rows."""

import csv
import io
import os
import re
from contextlib import contextmanager
from pathlib import Path

from sklearn_exdd._images.files import Names

_SEPARATORS = (",", ";", "\t")  # characters between columns; German Excel writes semicolons
_N_FAULTS = 10  # maximum number of wrong rows listed in a message
_BLANK = frozenset(["", "nan", "none", "null", "n/a", "#n/a", "<na>"])  # spellings of an empty cell


def read_rows(index, layout, needed):
    """Read the rows of a table that has a header.

    Parameters
    ----------
    index : pathlib.Path
        Path of the table.
    layout : str
        Description of the expected layout, for messages.
    needed : set of str
        Names of the required columns, in lower case.

    Returns
    -------
    rows : list of (int, dict of str to str)
        Line number and cells of each row. Blank rows are skipped. Spaces around the text of a cell are removed. In an
        optional column, spellings of a missing value, such as "nan" or "None", are replaced with an empty text.

    Raises
    ------
    ValueError
        If the text is neither UTF-8 nor UTF-16 with a byte order mark, or is not a table with the required columns.
    """
    text = _decode(index)
    first = re.match(r"sep=([^\w\s\"\\]|\t)(?:\r\n|\r|\n)", text)  # line that tells Excel the separator
    table, columns = text[first.end() :] if first else text, []
    for separator in [first[1]] if first else _SEPARATORS:
        header, rows = _parse(index, table, separator)
        if header is not None and needed <= set(header):
            break
        columns.append(header)
    else:
        raise ValueError(
            f"Expected {layout}, separated by commas, semicolons or tabs, got "
            f"{f'the columns {columns[0]}' if columns[0] else 'an empty table'} in {str(index)!r}."
        )
    if len(set(filter(None, header))) < len(list(filter(None, header))):
        raise ValueError(f"{index}: expected each column once, got the columns {header}.")
    n_skipped, named = int(first is not None), []
    for number, cells in rows:
        if any(cells[len(header) :]):
            raise ValueError(
                f"{index}, line {number + n_skipped}: expected {len(header)} cells, got {len(cells)}. Put names that "
                "contain the separator in double quotes."
            )
        row = dict(zip(header, cells))
        for name in row.keys() - needed:
            row[name] = "" if row[name].lower() in _BLANK else row[name]
        named.append((number + n_skipped, row))
    return named


def _decode(index):
    content = index.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    remedy = 'Save the table as "CSV UTF-8".'
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line(content[: error.start].decode(encoding, "ignore"))
        byte = content[error.start]
        raise ValueError(f"{index}, line {line}: expected UTF-8, got the byte 0x{byte:02x}. {remedy}") from error
    if "\0" in text:
        line = _line(text[: text.index("\0")])
        raise ValueError(f"{index}, line {line}: expected UTF-8, got the byte 0x00. {remedy}")
    return text


def _line(before):
    return 1 + len(re.findall("\r\n|\r|\n", before))


def _parse(index, text, separator):
    """Split a text into its header and its other rows.

    The header is in lower case, or None if the table is empty. Each row comes with its line number.
    """
    rows, header = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True), None
    found = []
    try:
        for cells in rows:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if header is None:
                while not cells[-1]:  # extra separators at the end of the line make empty cells
                    cells.pop()
                header = [cell.lower() for cell in cells]
            else:
                found.append((rows.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{index}, line {rows.line_num}: expected a table, got an error: {error}.") from error
    return header, found


class RowFaults:
    """Collector of errors in the rows of a table, so that all of them are reported together.

    Parameters
    ----------
    index : pathlib.Path
        Path of the table, for messages.
    """

    def __init__(self, index):
        self._index, self._found = index, []

    @contextmanager
    def of(self, line):
        """Return a context that records errors instead of raising them. They belong to the row in the given line."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._found.append((line, error))

    def raise_any(self):
        """Raise one error for all wrong rows, if there are any. It has the type of the first recorded error."""
        if not self._found:
            return
        kind = FileNotFoundError if isinstance(self._found[0][1], FileNotFoundError) else ValueError
        lines = [f"line {line}: {error}" for line, error in self._found[:_N_FAULTS]]
        if len(self._found) == 1:
            raise kind(f"{self._index}, {lines[0]}") from self._found[0][1]
        n_more = len(self._found) - len(lines)
        lines += [f"and {n_more} more"] if n_more else []
        raise kind(f"{self._index}: expected only valid rows, got {len(self._found)} wrong rows:\n" + "\n".join(lines))


class FileNames:
    """Lookup of the files that the rows of a table name.

    Parameters
    ----------
    folder : pathlib.Path
        Folder that the names are relative to.
    """

    def __init__(self, folder):
        self._folder, self._names = folder, None

    def locate(self, name):
        """Find a file by its name, which may contain Windows separators.

        Other spellings that are accepted are described in :class:`Names`.

        Returns
        -------
        path : pathlib.Path or None
            Path of the file, or None if the file does not exist or the name is ambiguous. The path may lead out of the
            folder.
        """
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            if (self._folder / spelling).is_file():
                return self._folder / spelling
        if self._names is None:
            self._names = Names(self._all_files())
        found = self._names.find(os.path.normpath(name.replace("\\", "/")).replace(os.sep, "/"))
        return found[0] if len(found) == 1 else None

    def _all_files(self):
        for place, _, files in os.walk(self._folder):
            for file in files:
                path = Path(place, file)
                yield path.relative_to(self._folder).as_posix(), path
