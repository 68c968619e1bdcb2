"""The watchlist: whom we watch and how they are called. CSV with `symbol,name,aliases,exchange,sector`, aliases by `|`.

The entity is the symbol. A company that was renamed, or has taken another over, keeps the symbols that it had in the
optional column `formerly`, by `|`: texts that still name those are about it. What was known under an old symbol stays there
and isn't merged: the new one begins with little record, which its alerts say, and alerts of the old one resolve when it falls
silent.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from monitor.errors import Fatal
from monitor.linking.folding import fold
from monitor.records import Record

COLUMNS = ("symbol", "name", "aliases", "exchange", "sector")
FORMERLY = "formerly"
_COMPANIES_MAX, _ALIASES_MAX, _CHARS_MAX = 100_000, 50, 120


class Company(Record, frozen=True, kw_only=True):
    """One row; `formerly` are symbols that it had; `extra` holds the columns that we don't know."""

    symbol: str
    name: str
    aliases: tuple[str, ...] = ()
    exchange: str = ""
    sector: str = ""
    formerly: tuple[str, ...] = ()
    extra: dict[str, str] = {}


class Watchlist(Record, frozen=True, kw_only=True):
    """`fingerprint`: sha256 of the file, so that it can be shown later who was watched, and as what."""

    companies: tuple[Company, ...]
    fingerprint: str

    def names(self) -> dict[str, str]:
        """Symbol → name."""
        return {company.symbol: company.name for company in self.companies}

    def sectors(self) -> dict[str, str]:
        """Symbol → sector, of those that have one."""
        return {company.symbol: company.sector for company in self.companies if company.sector}


def load_watchlist(path: Path) -> Watchlist:
    """Raises Fatal with every fault: file, line, column, what to do."""
    try:
        blob = path.read_bytes()
        text = blob.decode("utf-8-sig")
    except FileNotFoundError as err:
        raise Fatal(f"{path}: no such file; name one in [watchlist] path") from err
    except OSError as err:
        raise Fatal(f"{path}: can't be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise Fatal(f"{path}: byte {err.start} is not UTF-8; save the file as UTF-8") from err
    reader = csv.DictReader(io.StringIO(text))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise Fatal(f"{path}: line 1: column {', '.join(missing)} is missing; the header is {','.join(COLUMNS)}")
    companies, faults = [], []
    owners: dict[str, tuple[str, int]] = {}
    lines: dict[str, int] = {}
    for row in reader:
        line = reader.line_num
        company = _company(row)
        faults += [f"{path}: line {line}: {fault}" for fault in _row_faults(row, company)]
        if company.symbol in lines:
            faults.append(
                f"{path}: line {line}: symbol {company.symbol} stands already in line {lines[company.symbol]}"
            )
            continue
        lines[company.symbol] = line
        for term in dict.fromkeys(fold(term) for term in (company.name, *company.aliases)):
            owner = owners.setdefault(term, (company.symbol, line))
            if owner[0] != company.symbol:
                faults.append(
                    f"{path}: line {line}: {term!r} of {company.symbol} is also {owner[0]}'s in line {owner[1]}; "
                    "leave it to one of them"
                )
        companies.append(company)
        if len(companies) > _COMPANIES_MAX:
            faults.append(f"{path}: more than {_COMPANIES_MAX} companies")
            break
    faults += [f"{path}: {fault}" for fault in _renaming_faults(companies, lines)]
    if not companies and not faults:
        faults.append(f"{path}: no companies")
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults))
    return Watchlist(companies=tuple(companies), fingerprint=sha256(blob).hexdigest())


def _renaming_faults(companies: Sequence[Company], lines: Mapping[str, int]) -> list[str]:
    """A symbol means one company at a time."""
    faults: list[str] = []
    heirs: dict[str, str] = {}
    for company in companies:
        for symbol in company.formerly:
            where = f"line {lines[company.symbol]}: formerly {symbol} of {company.symbol}"
            if not _is_symbol(symbol):
                faults.append(f"{where}: must be letters, digits, '.', '-', '_' or '^'")
            elif symbol in lines:
                faults.append(
                    f"{where}: is still a company of its own in line {lines[symbol]}; remove that line or this"
                )
            elif heirs.setdefault(symbol, company.symbol) != company.symbol:
                faults.append(f"{where}: is also {heirs[symbol]}'s; leave it to one of them")
    return faults


def _is_symbol(text: str) -> bool:
    return bool(text) and all(c.isascii() and (c.isalnum() or c in ".-_^") for c in text)


def _company(row: dict[str | None, str | None]) -> Company:
    def cell(name: str) -> str:
        return (row.get(name) or "").strip()

    aliases = tuple(alias.strip() for alias in cell("aliases").split("|") if alias.strip())
    known = (*COLUMNS, FORMERLY)
    extra = {name: value or "" for name, value in row.items() if name is not None and name not in known}
    return Company(
        symbol=cell("symbol"),
        name=cell("name"),
        aliases=aliases,
        exchange=cell("exchange"),
        sector=cell("sector"),
        formerly=tuple(symbol.strip() for symbol in cell(FORMERLY).split("|") if symbol.strip()),
        extra=extra,
    )


def _row_faults(row: dict[str | None, str | None], company: Company) -> list[str]:
    faults = []
    if None in row:
        faults.append("more cells than columns; put quotes around a cell that holds a comma")
    if not _is_symbol(company.symbol):
        faults.append(f"symbol {company.symbol!r} must be letters, digits, '.', '-', '_' or '^'")
    if not company.name:
        faults.append(f"symbol {company.symbol}: name is empty")
    if len(company.aliases) > _ALIASES_MAX:
        faults.append(f"symbol {company.symbol}: more than {_ALIASES_MAX} aliases")
    unfit = [t for t in (company.name, *company.aliases) if t and not 2 <= len(fold(t)) <= _CHARS_MAX]
    return faults + [f"symbol {company.symbol}: {t!r} must have 2 to {_CHARS_MAX} characters" for t in unfit]
