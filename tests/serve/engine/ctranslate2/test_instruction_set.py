"""Which instruction set CTranslate2 is told to use."""

import os
import subprocess
import sys

import pytest

from serve.engine.ctranslate2.instruction_set import choose_instruction_set

AVX512 = "avx512f avx512cd avx512vl avx512bw avx512dq"


@pytest.fixture
def cpu(tmp_path):
    def cpu(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nprocessor\t: 1\n")
        return path

    return cpu


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setenv("CT2_FORCE_CPU_ISA", "")
    monkeypatch.delenv("CT2_FORCE_CPU_ISA")


def test_a_processor_with_vnni_gets_avx_512(cpu):
    choose_instruction_set(cpu(f"avx2 {AVX512} avx512_vnni"))
    assert os.environ["CT2_FORCE_CPU_ISA"] == "AVX512"


@pytest.mark.parametrize("flags", ["avx2", f"avx2 {AVX512}", "avx2 avx512f avx512_vnni"])
def test_others_keep_what_ctranslate2_chooses(cpu, flags):
    choose_instruction_set(cpu(flags))
    assert "CT2_FORCE_CPU_ISA" not in os.environ


def test_what_somebody_has_set_stays(cpu, monkeypatch):
    monkeypatch.setenv("CT2_FORCE_CPU_ISA", "GENERIC")
    choose_instruction_set(cpu(f"{AVX512} avx512_vnni"))
    assert os.environ["CT2_FORCE_CPU_ISA"] == "GENERIC"


def test_without_proc_nothing_is_chosen(tmp_path):
    choose_instruction_set(tmp_path / "missing")
    assert "CT2_FORCE_CPU_ISA" not in os.environ


def test_ctranslate2_loads_with_what_is_chosen_for_this_machine():
    assert printed(
        "from serve.engine.ctranslate2.instruction_set import choose_instruction_set as choose; choose();"
        "import ctranslate2; print('loaded')"
    ) == ("loaded\n")


def test_nothing_loads_ctranslate2_before_the_choice():
    assert printed(
        "import sys, serve.service.loading, serve.engine.ctranslate2.merging, serve.http.server;"
        "import train.export.merged, train.evaluate.__main__;"
        "print('ctranslate2' in sys.modules)"
    ) == ("False\n")


def printed(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
