"""Layers of values -> a frozen dataclass, and all that can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from serve.config.reader import (
    MASK,
    Given,
    Secret,
    convert,
    keys_of,
    nearest,
    read_dataclass,
    read_or_raise,
    shown_default,
)
from serve.errors import ConfigError

UNDER_THE_MAT = Secret("a spare one")


@dataclass(frozen=True, kw_only=True)
class Room:
    """A nested part."""

    size_m: float = 3.0
    """How large
    it is."""


@dataclass(frozen=True, kw_only=True)
class House:
    """Something to be read."""

    name: str
    """Its name."""
    key: Secret | None = UNDER_THE_MAT
    """Opens it."""
    floors: int = 1
    """Storeys."""
    room: Room = field(default_factory=Room)

    def __post_init__(self) -> None:
        if self.floors < 1:
            raise ConfigError(["floors is at least 1"])


@dataclass(frozen=True, kw_only=True)
class Villa(House):
    """Something that has all that another has."""

    pools: int = 1
    """Ponds to swim in."""


def layer(**values):
    return {name.replace("__", "."): Given(value, f"--{name}") for name, value in values.items()}


def test_values_of_nested_parts_hang_on_a_dot_and_defaults_fill_the_rest():
    house = read_or_raise(House, layer(name="mine", room__size_m="4.5"))
    assert (house.name, house.floors, house.room) == ("mine", 1, Room(size_m=4.5))


def test_every_docstring_below_a_field_is_its_help_on_one_line():
    keys = keys_of(House)
    assert keys["room.size_m"].about == "How large it is." and keys["floors"].about == "Storeys."


def test_fields_that_are_inherited_keep_their_help():
    keys = keys_of(Villa)
    assert keys["floors"].about == "Storeys." and keys["pools"].about == "Ponds to swim in."


def test_what_is_missing_unknown_unreadable_and_contradictory_is_said_at_once():
    faults: list[str] = []
    given = layer(floors="0", room__size_m="wide", flors="2")
    assert read_dataclass(House, given, faults, names={"name": "--name"}, stand_ins={"name": ""}) is None
    assert faults == [
        "--room__size_m: 'wide' is not a number",
        "--flors is unknown; did you mean floors?",
        "--name is missing",
        "floors is at least 1",
    ]


def test_a_secret_shows_in_no_repr_default_or_fault():
    house = read_or_raise(House, layer(name="mine", key="hush"))
    assert house.key == Secret("hush") and house.key.reveal() == "hush"
    assert "hush" not in repr(house) and "hush" not in f"{house.key}"
    assert shown_default(keys_of(House)["key"]) == MASK
    with pytest.raises(ConfigError) as refused:
        read_or_raise(House, {"name": Given("n", "name"), "key": Given(["hush"], "key in file")})
    assert refused.value.faults == ("key in file: is not a value that it can take",)


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("8080", int, 8080),
        ("8e3", int, 8000),
        (8.0, int, 8),
        ("1e-3", float, 0.001),
        ("ON", bool, True),
        (False, bool, False),
        ("/tmp/x", Path, Path("/tmp/x")),
        ("null", int | None, None),
        ("5", int | None, 5),
        ("a, b", tuple[str, ...], ("a", "b")),
        ('["a", "b"]', tuple[str, ...], ("a", "b")),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("3", tuple[int, ...] | None, (3,)),
        ("b", Literal["a", "b"], "b"),
    ],
)
def test_text_and_values_of_files_are_read_as_the_type_of_the_field(value, kind, read):
    assert convert(value, kind) == read and type(convert(value, kind)) is type(read)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("http", int, "'http' is not a whole number"),
        ("1.5", int, "not a whole number"),
        (True, int, "not a whole number"),
        ("nan", float, "not a number"),
        ("perhaps", bool, "neither true nor false"),
        (1, bool, "neither true nor false"),
        (7, str, "7 is not text"),
        ("c", Literal["a", "b"], "'c' is not one of a, b"),
        ("1,2,3", tuple[float, float], "3 values are given where 2 are needed"),
        ({}, tuple[str, ...], "is not a list"),
    ],
)
def test_what_a_field_cannot_hold_is_refused_with_what_it_can(value, kind, said):
    with pytest.raises(ValueError, match=said):
        convert(value, kind)


def test_the_nearest_name_is_sought_behind_a_common_prefix():
    assert nearest("SHROTA_PRT", ["SHROTA_PORT"], "SHROTA_") == "; did you mean SHROTA_PORT?"
    assert nearest("SHROTA_COLOUR", ["SHROTA_PORT"], "SHROTA_") == ""
