"""The column of energy: only where it was measured, and one for each kind of counter."""

from __future__ import annotations

from report_runs import full_precision, make_manifest, make_metrics, make_record, metric

from pqbench.report.tables.results import results_table
from pqbench.report.tables.table import Section
from pqbench.results.records import Record

NAME = "energy_joules_per_image@openvino/16"


def with_energy(method: str, joules: float, protocol: str = "package", noisy: bool = False) -> Record:
    energy = metric(joules, protocol=protocol).model_copy(
        update={"unit": "J", "detail": {"noisy": noisy, "other_work": 0.4, "other_cores": 0.8}}
    )
    return make_record(method, metrics={**make_metrics(50, 9, 1, 9), NAME: energy})


def section_of(*records: Record) -> Section:
    (section,) = results_table([full_precision(), *records], make_manifest()).sections
    return section


def energies(section: Section) -> dict[str, list[str]]:
    """The texts of each column of energy."""
    places = {i: column.key for i, column in enumerate(section.columns) if column.title.startswith("Energy")}
    return {key: [row[i].text for row in section.rows] for i, key in places.items()}


def test_the_column_is_there_only_when_it_was_measured() -> None:
    assert energies(section_of(make_record("rtn", metrics=make_metrics(50, 9, 1, 9)))) == {}
    section = section_of(with_energy("rtn", 1.25))
    assert energies(section) == {NAME: ["–", "1.25"]}
    (column,) = (each for each in section.columns if each.key == NAME)
    assert (column.title, column.unit, column.group) == ("Energy", "J/image", "openvino, batch 16")


def test_other_counters_have_a_column_of_their_own() -> None:
    section = section_of(with_energy("rtn", 1.25), with_energy("ptq4dm", 1.5, protocol="package and dram"))
    assert energies(section) == {
        f"{NAME}#package": ["–", "1.25", "–"],
        f"{NAME}#package and dram": ["–", "–", "1.50"],
    }


def test_energy_of_a_busy_machine_is_marked() -> None:
    section = section_of(with_energy("rtn", 1.25, noisy=True))
    assert "Measured on a busy or unsteady machine: other work took 40 % of it (0.8 cores)." in section.footnotes
