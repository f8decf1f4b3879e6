"""What `auto` becomes, why, and that a run remembers it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.cli import assert_refused, ebm, train, trained
from helpers.components import component
from helpers.models import small_model

from ebm_cli import acceleration
from ebm_cli.acceleration import resolved
from ebm_cli.device import base as device_module
from ebm_cli.device import launch
from ebm_cli.device.engine import Work
from ebm_cli.errors import UserError
from ebm_cli.space import Binary

LONG, SHORT = Work(10**10, 10**6, 10**6), Work(10**4, 10**2, 10**2)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def vnni(monkeypatch):
    """A CPU with 8-bit integer products, whatever this one has."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)


@pytest.fixture
def compiler(monkeypatch):
    """A working compiler, whatever there is."""
    monkeypatch.setattr(acceleration, "_no_compiler", lambda: None)


FITS = {"updates": None, "ahead": None}  # nothing stands in the way


def device(**changes):
    return component("device", "cpu", **changes)


@pytest.mark.usefixtures("vnni", "compiler")
def test_a_long_run_is_compiled_and_a_short_one_is_not():
    model = small_model("rbm", Binary((2, 2)))
    spec, said = resolved(device(), model, LONG, FITS)
    assert (spec.compile, spec.precision) == ("always", "fixed16")
    assert said == "inner loops compiled, which the first steps wait for"
    spec, said = resolved(device(), model, SHORT, FITS)
    assert (spec.compile, spec.precision) == ("never", "fp32")
    assert "too short to repay compiling (device.compile=always insists)" in said


@pytest.mark.usefixtures("vnni", "compiler")
def test_what_is_asked_for_is_done():
    model = small_model("rbm", Binary((2, 2)))
    assert resolved(device(compile="always"), model, SHORT, FITS)[0].compile == "always"
    assert resolved(device(compile="never"), model, LONG, FITS)[0].compile == "never"
    assert resolved(device(precision="bf16"), model, LONG, FITS)[0].precision == "bf16"
    assert resolved(device(precision="fixed24"), model, SHORT, FITS)[0].precision == "fixed24"


@pytest.mark.usefixtures("compiler")
def test_fixed_point_needs_the_instructions_and_a_model_that_has_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert resolved(device(), small_model("rbm", Binary((2, 2))), LONG, FITS)[0].precision == "fp32"
    with pytest.raises(UserError, match=r"device.precision = fixed24: only CPUs with VNNI.*use device.precision=fp32"):
        resolved(device(precision="fixed24"), small_model("rbm", Binary((2, 2))), LONG, FITS)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert resolved(device(), small_model("boltzmann", Binary((2, 2))), LONG, FITS)[0].precision == "fp32"
    with pytest.raises(UserError, match=r"this model has no products of binary units"):
        resolved(device(precision="fixed24"), small_model("boltzmann", Binary((2, 2))), LONG, FITS)


def test_without_a_compiler_a_long_run_goes_on_and_says_so(monkeypatch):
    monkeypatch.setattr(acceleration, "_no_compiler", lambda: "there is no C++ compiler (install g++)")
    spec, said = resolved(device(), small_model("rbm", Binary((2, 2))), LONG, FITS)
    assert (spec.compile, spec.precision) == ("never", "fp32")
    assert said == "inner loops not compiled: there is no C++ compiler (install g++)"
    with pytest.raises(UserError, match=r"device.compile = always: there is no C\+\+ compiler .*device.compile=never"):
        resolved(device(compile="always"), small_model("rbm", Binary((2, 2))), LONG, FITS)


def test_a_missing_compiler_is_found_missing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert acceleration._no_compiler() == "there is no C++ compiler (install no-such-compiler)"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert acceleration._no_compiler() == "there is no C++ compiler (install g++)"


def test_units_count_what_a_transition_draws():
    rbm, boltzmann = small_model("rbm", Binary((2, 2))), small_model("boltzmann", Binary((2, 2)))
    assert rbm.drawn == rbm.space.sites + rbm.hidden
    assert boltzmann.drawn == boltzmann.space.sites


@pytest.mark.long
def test_the_configuration_of_a_run_says_what_auto_became():
    config = yaml.safe_load((trained() / "config.yaml").read_text())
    assert (config["device"]["compile"], config["device"]["precision"]) == ("never", "fp32")


@pytest.mark.long
def test_a_resumed_run_does_what_it_did_however_long_it_is_now(monkeypatch):
    run = trained()
    monkeypatch.setattr(acceleration, "_COST", 0.0)
    monkeypatch.setattr(acceleration, "_no_compiler", lambda: "there is none")  # for what would be compiled
    assert "not compiled: device.compile=never" in ebm(f"train resume={run} steps=24").err
    assert "not compiled: there is none" in train("device.compile=auto", "other").err


@pytest.mark.long
def test_unknown_settings_are_refused():
    assert_refused(train("device.compile=sometimes"), "device.compile", "sometimes")
    assert_refused(train("device.precision=fp8"), "device.precision", "fp8")
    assert_refused(train("device.memory=-1"), "device.memory")
    assert_refused(
        ebm("train model=boltzmann device=cpu device.precision=fixed24 evaluation=[]"),
        "device.precision = fixed24",
        "device.precision=fp32",
    )


@pytest.mark.long
def test_small_products_take_one_thread():
    small, large = small_model("rbm", Binary((8, 8)), hidden=64), small_model("rbm", Binary((28, 28)), hidden=64)
    assert acceleration.threads(device(threads=None), small, 200) == 1
    assert acceleration.threads(device(threads=None), large, 200) is None
    assert acceleration.threads(device(threads=2), small, 200) == 2
    trained("", "small")
    assert yaml.safe_load(Path("small/config.yaml").read_text())["device"]["threads"] == 1
    assert torch.get_num_threads() == 1
    trained("device.threads=2", "two")
    assert torch.get_num_threads() == 2


def test_cores_that_a_process_may_not_use_do_not_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.threads_each(2) == {"OMP_NUM_THREADS": "1"}
    with pytest.raises(UserError, match=r"device.threads = 3: this process may use 2 of the machine's 64 cores"):
        device(threads=3).open()


def test_torchs_own_choice_comes_back():
    """After a small job of a multirun a larger one may have all threads again."""
    device(threads=1).open()
    device(threads=None).open()
    assert torch.get_num_threads() == device_module._THREADS


def test_evaluation_is_never_coarser_than_float32():
    assert acceleration.for_evaluation(device(precision="fixed16")).precision == "fixed24"
    assert acceleration.for_evaluation(device(precision="bf16")).precision == "fp32"
    run = trained("", "run")
    answer = ebm("evaluate", f"run={run}", "evaluation=[pseudo_likelihood]", "device.precision=bf16")
    assert "precision fp32" in answer.err


@pytest.mark.parametrize("has", ["_is_avx512_bf16_supported", "_is_amx_tile_supported", None])
def test_products_that_the_processor_imitates_are_said(has, monkeypatch):
    """Without the instructions a product of 784 x 500 took 200 ms in bf16 and 9 in float32."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == has)
    model = small_model("rbm", Binary((2, 2)))
    for precision in ("fp32", "bf16"):
        said = resolved(device(precision=precision), model, SHORT, FITS)[1]
        assert ("imitates them" in said) == (has is None and precision == "bf16")


@pytest.mark.long
def test_arithmetic_and_threads_this_machine_lacks_are_refused():
    assert_refused(train("device.precision=tf32 device=cpu"), "device.precision = tf32: a CPU has no such products")
    assert_refused(train("device.threads=100000"), "device.threads = 100000: this process may use")
