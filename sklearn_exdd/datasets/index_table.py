"""The table index.csv: its text, its rows, and the files that they name."""

import csv
import io
import os
import re
from pathlib import Path

from sklearn_exdd._images.files import Names

_SEPARATORS = (",", ";", "\t")  # German Excel writes semicolons
_BLANK = frozenset(["", "nan", "none", "null", "n/a", "#n/a", "<na>"])  # an empty cell, as programs write it


def read_rows(index, layout, needed):
    """Read the rows of a table that has a header.

    Parameters
    ----------
    index : pathlib.Path
    layout : str
        The expected layout, for messages.
    needed : set of str
        Names of the columns that have to be there, in lower case.

    Returns
    -------
    rows : list of (int, dict of str to str)
        For each row that is not blank, the number of its line and its cells without spaces around them. Cells of
        optional columns that programs fill with "nan", "None" and the like are empty.

    Raises
    ------
    ValueError
        If the text is neither UTF-8 nor UTF-16 with a byte order mark, or is not a table with these columns.
    """
    text = _decode(index)
    first = re.match(r"sep=([^\w\s\"\\]|\t)(?:\r\n|\r|\n)", text)  # which Excel takes for an instruction
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
        raise ValueError(f"{index}: expected every column once, got the columns {header}.")
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
    """Split a text into the header, in lower case, or None, and its other rows with the numbers of their lines."""
    rows, header = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True), None
    found = []
    try:
        for cells in rows:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if header is None:
                while not cells[-1]:  # separators at the end of a line
                    cells.pop()
                header = [cell.lower() for cell in cells]
            else:
                found.append((rows.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{index}, line {rows.line_num}: expected a table, got an error: {error}.") from error
    return header, found


class FileNames:
    """The files that the rows of a table name.

    Parameters
    ----------
    folder : pathlib.Path
        Names are relative to it.
    """

    def __init__(self, folder):
        self._folder, self._names = folder, None

    def locate(self, name):
        """Find a file by its name, with Windows' separators too; see :class:`Names` for what else may differ.

        Returns
        -------
        path : pathlib.Path or None
            None if there is no such file, or several could be meant. A name that leads out of the folder is followed.
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
