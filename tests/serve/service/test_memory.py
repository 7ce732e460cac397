"""Budgets of memory."""

from serve.service.memory import MemoryBudget, free_memory_bytes, resident_bytes

MIB = 2**20


def test_what_is_taken_is_bounded_and_can_be_given_back():
    budget = MemoryBudget(10 * MIB)
    assert budget.take(6 * MIB) and not budget.take(5 * MIB)
    assert budget.fits(5 * MIB, freed_bytes=MIB) and not budget.fits(6 * MIB, freed_bytes=MIB)
    budget.give_back(6 * MIB)
    assert budget.take(10 * MIB) and budget.taken_bytes == 10 * MIB


def test_without_a_limit_anything_is_given_unless_the_machine_is_asked():
    assert MemoryBudget().take(1 << 60)
    measured = MemoryBudget(measured=True)
    assert measured.take(MIB) and not measured.take(1 << 60)


def test_the_machine_has_some_memory_and_this_process_holds_some():
    assert 0 < resident_bytes() < 1 << 40
    assert 0 < free_memory_bytes() < 1 << 45
