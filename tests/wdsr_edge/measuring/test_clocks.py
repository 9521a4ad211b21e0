"""The power state of boards that are laid out in files, with scripts in place of nvpmodel and nvidia-smi.

All of it is written by hand, and nothing was recorded on a device. Names of files and fields, what the commands print
and the Orin's modes and clocks follow NVIDIA's own nvpmodel.conf (nvpmodel_p3767_0003_super.conf) and help text, and
reports of users. Made up: every temperature, voltage, current and power; the Thor's current clock; which zones and
rails there are besides the one that is read, and their order; the desktop's values; the order of the modes in
``MODES`` other than the Orin Nano's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from wdsr_edge.measuring import clocks
from wdsr_edge.measuring.clocks import Clocks, read_clocks

MODES = {
    "orin-nano-super": ("15W", "25W", "MAXN_SUPER"),
    "orin-nx-super": ("MAXN_SUPER", "10W", "15W", "25W", "40W"),
    "thor": ("MAXN", "120W", "90W", "70W"),
    "xavier-nx": ("MODE_15W_2CORE", "MODE_15W_4CORE"),
}
FIELDS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
CARD = "2520, 3105, 10501, 320.15, 450.00, 61"


class Machine:
    """A root folder, and a folder of commands that is all of PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.commands = folder / "root", folder / "bin"
        self.root.mkdir()
        self.commands.mkdir()

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def command(self, name: str, script: str) -> None:
        file = self.commands / name
        file.write_text(f'#!/bin/sh\necho "$0 $*" >> "{self.root.parent}/calls"\n{script}\n')
        file.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a command."""
        file = self.root.parent / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(str(self.commands / name))]

    def conf(self, board: str) -> None:
        """A board's modes, below a mode that is commented out and a letter that is not UTF-8."""
        lines = ["# < POWER_MODEL ID=9 NAME=MAXN_SUPER > d\xe9sactiv\xe9", "<PARAM TYPE=CLOCK NAME=EMC >", ""]
        for number, name in enumerate(MODES[board]):
            lines += [f"< POWER_MODEL ID={number} NAME={name} >", "CPU_ONLINE CORE_0 1", "GPU MIN_FREQ 0", ""]
        self.write("etc/nvpmodel.conf", "")
        (self.root / "etc/nvpmodel.conf").write_bytes("\n".join([*lines, "< PM_CONFIG DEFAULT=1 >"]).encode("latin-1"))

    def nvidia_smi(self, row: str, known: str) -> None:
        """A driver that knows one spelling of the throttle reasons."""
        self.command(
            "nvidia-smi",
            f"""case "$*" in
            *{known}.active*) echo "{row}" ;;
            *) echo 'Field "clocks_reasons.active" is not a valid field to query.'; exit 2 ;;
            esac""",
        )

    def read(self, **options: str) -> Clocks:
        found = read_clocks(0, self.root, **options)
        assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))["power_mode"] == found.power_mode
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(made.commands))
    for tool in ("sleep", "cat"):
        (made.commands / tool).symlink_to(shutil.which(tool, path=os.defpath) or f"/bin/{tool}")
    return made


@pytest.fixture
def orin(machine: Machine) -> Machine:
    """Orin Nano Super with JetPack 6 at 25 W, its GPU at its lowest clock."""
    machine.write("sys/class/devfreq/17000000.gpu/cur_freq", 306000000)
    machine.write("sys/class/devfreq/17000000.gpu/max_freq", 918000000)
    machine.write("sys/class/devfreq/15340000.vic/cur_freq", 115200000)
    for number, (kind, temp) in enumerate((("cpu-thermal", 49468), ("gpu-thermal", 50125), ("tj-thermal", 50531))):
        machine.write(f"sys/class/thermal/thermal_zone{number}/type", kind)
        machine.write(f"sys/class/thermal/thermal_zone{number}/temp", temp)
    for number, rail in enumerate(("VDD_CPU_GPU_CV", "VDD_IN", "VDD_SOC"), start=1):
        machine.write(f"sys/class/hwmon/hwmon1/in{number}_label", rail)
        machine.write(f"sys/class/hwmon/hwmon1/in{number}_input", 5000)
        machine.write(f"sys/class/hwmon/hwmon1/curr{number}_input", 1000 * number)
    machine.write("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil")
    machine.conf("orin-nano-super")
    machine.command("nvpmodel", "echo 'NV Power Mode: 25W'; echo 1")
    machine.nvidia_smi("[N/A], [N/A], [N/A], [N/A], [N/A], [N/A], [N/A]", "clocks_event_reasons")
    return machine


@pytest.fixture
def thor(machine: Machine) -> Machine:
    """Thor with JetPack 7, clocks held by jetson_clocks."""
    machine.write("sys/class/devfreq/gpu-nvd-0/cur_freq", 1000000000)
    machine.write("sys/class/devfreq/gpu-nvd-0/max_freq", 1000000000)
    machine.write("sys/class/devfreq/gpu-gpc-0/cur_freq", 1575000000)
    machine.write("sys/class/devfreq/gpu-gpc-0/max_freq", 1575000000)
    machine.write("sys/class/devfreq/bwmgr/cur_freq", 4266000000)
    machine.write("sys/class/thermal/thermal_zone1/type", "gpu-thermal")
    machine.write("sys/class/thermal/thermal_zone1/temp", 61000)
    machine.conf("thor")
    machine.command("nvpmodel", "echo 'NV Power Mode: MAXN'; echo 0")
    return machine


def test_orin(orin: Machine) -> None:
    found = orin.read()
    assert found == Clocks(
        power_mode="25W",
        gpu_mhz=306,
        gpu_max_mhz=918,
        power_w=10,
        temperature_c=50.125,
        jetson=True,
        highest_mode="2 MAXN_SUPER",
    )
    assert found.advice == [
        "the GPU ran at 306 of 918 MHz: if it was busy, sudo jetson_clocks",
        "power mode 25W: sudo nvpmodel -m 2 sets MAXN_SUPER; else state it with the figures",
    ]
    assert orin.calls("nvpmodel") == ["-q"]
    assert orin.calls("nvidia-smi") == []


def test_orin_tells_root_its_memory_clock(orin: Machine) -> None:
    orin.write("sys/kernel/debug/bpmp/debug/clk/emc/rate", 3199000000)
    assert orin.read().memory_mhz == 3199


def test_thor(thor: Machine) -> None:
    found = thor.read()
    assert found == Clocks("MAXN", 1575, 1575, 4266, temperature_c=61, jetson=True, highest_mode="0 MAXN")
    assert found.advice == []


@pytest.mark.parametrize(("folder", "zone"), [("17000000.ga10b", "GPU-therm"), ("17000000.gv11b", "GPU-therm")])
def test_names_of_older_jetpacks(machine: Machine, folder: str, zone: str) -> None:
    machine.write(f"sys/class/devfreq/{folder}/cur_freq", 1300500000)
    machine.write("sys/class/thermal/thermal_zone0/type", zone)
    machine.write("sys/class/thermal/thermal_zone0/temp", 40500)
    assert machine.read() == Clocks(gpu_mhz=1300.5, temperature_c=40.5, jetson=True)


@pytest.mark.parametrize(
    ("board", "mode", "advice"),
    [
        ("orin-nano-super", "MAXN_SUPER", None),
        ("orin-nano-super", "15W", "power mode 15W: sudo nvpmodel -m 2 sets MAXN_SUPER"),
        ("orin-nx-super", "MAXN_SUPER", None),
        ("orin-nx-super", "40W", "power mode 40W: sudo nvpmodel -m 0 sets MAXN_SUPER"),
        ("orin-nano-super", "MAXN", "power mode MAXN: sudo nvpmodel -m 2 sets MAXN_SUPER"),
        ("thor", "120W", "power mode 120W: sudo nvpmodel -m 0 sets MAXN"),
        ("xavier-nx", "MODE_15W_2CORE", "power mode MODE_15W_2CORE: sudo nvpmodel -q shows it, nvpmodel -p --verbose"),
        (None, "15W", "power mode 15W: sudo nvpmodel -q shows it"),
        (None, "MAXN", None),
    ],
)
def test_the_highest_mode_is_looked_up(machine: Machine, board: str | None, mode: str, advice: str | None) -> None:
    if board:
        machine.conf(board)
    machine.command("nvpmodel", f"echo 'NV Power Mode: {mode}'; echo 7")
    found = machine.read().advice
    assert len(found) == (advice is not None)
    assert advice is None or found[0].startswith(advice)


@pytest.mark.parametrize(
    "script",
    [
        None,
        "echo 'NVPM WARN: power mode is not set!'",
        "echo 'NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13' >&2; exit 1",
    ],
)
@pytest.mark.parametrize(
    ("kept", "mode"), [("pmode:0002 fmode:quiet", "MAXN_SUPER"), ("pmode:0000", "15W"), ("pmode:0009", ""), ("", "")]
)
def test_without_nvpmodel_the_number_it_keeps_tells(orin: Machine, script: str | None, kept: str, mode: str) -> None:
    (orin.commands / "nvpmodel").unlink()
    if script:
        orin.command("nvpmodel", script)
    orin.write("var/lib/nvpmodel/status", kept)
    found = orin.read()
    assert (found.power_mode, found.jetson) == (mode, True)
    assert any(line.startswith("power mode unknown: sudo nvpmodel -m 2") for line in found.advice) == (mode == "")


def test_nvpmodel_goes_before_the_number_it_keeps_and_may_fail_later(orin: Machine) -> None:
    orin.write("var/lib/nvpmodel/status", "pmode:0000")
    orin.command("nvpmodel", "echo 'NV Fan Mode:quiet'; echo 'NV Power Mode: 25W'; echo 1; echo ERROR; exit 1")
    assert orin.read().power_mode == "25W"


def test_a_board_whose_gpu_has_another_name(machine: Machine) -> None:
    machine.conf("thor")
    machine.command("nvpmodel", "echo 'NV Power Mode: MAXN'; echo 0")
    machine.nvidia_smi(f"{CARD}, 0x0", "clocks_event_reasons")
    found = machine.read()
    assert (found.jetson, found.power_mode, found.gpu_mhz) == (True, "MAXN", 2520)


@pytest.mark.parametrize("known", ["clocks_event_reasons", "clocks_throttle_reasons"])
def test_desktop(machine: Machine, known: str) -> None:
    machine.nvidia_smi(f"{CARD}, 0x0000000000000001", known)
    machine.write("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance")
    found = machine.read()
    assert found == Clocks("performance", 2520, 3105, 10501, 320.15, 450, 61)
    assert found.advice == []
    assert len(machine.calls("nvidia-smi")) == (1 if known == "clocks_event_reasons" else 2)
    for call in machine.calls("nvidia-smi"):
        identity, query, form = call.split()
        assert (identity, form) == ("--id=0", "--format=csv,noheader,nounits")
        assert query.removeprefix("--query-gpu=").split(",")[:-1] == list(FIELDS)


def test_the_gpu_asked_for(machine: Machine) -> None:
    machine.nvidia_smi(f"{CARD}, 0x0", "clocks_event_reasons")
    machine.read(bus_id="0000:01:00.0")
    read_clocks(3, machine.root)
    read_clocks(3, machine.root, bus_id="0000:41:00.0")
    asked = [call.split()[0] for call in machine.calls("nvidia-smi")]
    assert asked == ["--id=0000:01:00.0", "--id=3", "--id=0000:41:00.0"]


@pytest.mark.parametrize("blank", ["[N/A]", "[Not Supported]", "N/A", "[Unknown Error]", "ERR!", "", "nan", "inf"])
@pytest.mark.parametrize("index", range(7))
def test_a_value_that_a_gpu_lacks(machine: Machine, blank: str, index: int) -> None:
    values = [*CARD.split(", "), "0x0000000000000004"]
    values[index] = blank
    machine.nvidia_smi(", ".join(values), "clocks_event_reasons")
    whole = (2520, 3105, 10501, 320.15, 450, 61, ("sw_power_cap",))
    found = dataclasses.astuple(machine.read())[1:8]
    assert found == (*whole[:index], () if index == 6 else None, *whole[index + 1 :])


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [
        ("0x0000000000000000", ()),
        ("0x0000000000000001", ()),
        ("0x0000000000000002", ("applications_clocks_setting",)),
        ("0x0000000000000005", ("sw_power_cap",)),
        ("0x0000000000000048", ("hw_slowdown", "hw_thermal_slowdown")),
        ("0x0000000000000020", ("sw_thermal_slowdown",)),
        ("0x0000000000000188", ("hw_slowdown", "hw_power_brake_slowdown", "display_clocks_setting")),
        ("0x0000000000000210", ("sync_boost", "0x200")),
        ("Not Active", ()),
    ],
)
def test_reasons_that_hold_clocks_down(machine: Machine, mask: str, reasons: tuple[str, ...]) -> None:
    machine.nvidia_smi(f"{CARD}, {mask}", "clocks_event_reasons")
    assert machine.read().throttled == reasons


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        (Clocks(), []),
        (Clocks("performance", 1500, 2000), []),
        (Clocks("schedutil", 1499, 2000), ["ran at 1499 of 2000 MHz: if it was busy, sudo nvidia-smi -lgc MHZ"]),
        (Clocks("", 0, 2000), ["ran at 0 of 2000 MHz"]),
        (Clocks("", None, 2000), []),
        (Clocks("", 300, None), []),
        (Clocks(temperature_c=91, throttled=("hw_slowdown", "sw_power_cap")), ["down at 91 C (hw_slowdown)", "limit:"]),
        (Clocks(throttled=("hw_thermal_slowdown", "sw_thermal_slowdown")), ["slows down (hw_thermal_slowdown, sw_"]),
        (Clocks(power_limit_w=70, throttled=("sw_power_cap", "sync_boost")), ["power limit of 70 W: state it"]),
        (Clocks("performance, powersave"), ["governor is powersave: sudo cpupower frequency-set -g performance"]),
        (Clocks("powersave", jetson=True, highest_mode="1 powersave"), []),
    ],
)
def test_advice(found: Clocks, advice: list[str]) -> None:
    assert len(found.advice) == len(advice)
    assert all(part in line for part, line in zip(advice, found.advice, strict=True)), found.advice


def test_governors_that_differ(machine: Machine) -> None:
    for number, name in enumerate(("schedutil", "performance", "schedutil", "")):
        machine.write(f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor", name)
    assert machine.read() == Clocks("performance, schedutil")


def test_nothing_at_all(machine: Machine) -> None:
    assert machine.read() == Clocks()
    assert read_clocks(-1, machine.root / "nowhere", bus_id="\0") == Clocks()


def test_another_makers_gpu_is_no_jetson(machine: Machine) -> None:
    machine.write("sys/class/devfreq/fb000000.gpu/cur_freq", 300000000)
    machine.write("sys/class/hwmon/hwmon0/in1_label", "VDD_IN")
    assert machine.read() == Clocks()


@pytest.mark.parametrize("name", ["nvpmodel", "nvidia-smi"])
def test_a_command_that_hangs_is_given_up_once(machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(clocks, "PATIENCE_S", 0.3)
    machine.command(name, "exec sleep 60")
    start = time.perf_counter()
    assert machine.read() == Clocks()
    assert time.perf_counter() - start < 20
    assert len(machine.calls(name)) == 1


def test_a_command_whose_child_keeps_its_output_open(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "PATIENCE_S", 0.3)
    machine.command("nvidia-smi", "sleep 3 &")
    assert machine.read() == Clocks()


def test_a_command_that_asks_gets_no_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input is a pipe that stays open."""
    monkeypatch.setattr(clocks, "PATIENCE_S", 5)
    machine.command("nvidia-smi", f"cat; echo '{CARD}, 0x0'")
    (reading, writing), kept = os.pipe(), os.dup(0)
    os.dup2(reading, 0)
    try:
        assert machine.read().gpu_mhz == 2520
    finally:
        os.dup2(kept, 0)
        for end in (reading, writing, kept):
            os.close(end)


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo 'No devices were found'; exit 6",
        "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
        "echo a, b, c, d, e, f, g",
        "echo 1, 2, 3",
        "echo 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "printf '\\377\\376\\000,,,,,,\\n'",
        "kill -9 $$",
        "cat",
    ],
)
def test_a_command_that_fails_or_prints_rubbish(machine: Machine, script: str) -> None:
    machine.command("nvidia-smi", script)
    machine.command("nvpmodel", script)
    assert machine.read() == Clocks()


def test_commands_that_cannot_be_run(machine: Machine) -> None:
    for name, mode in (("nvidia-smi", 0o644), ("nvpmodel", 0o755)):
        (machine.commands / name).write_bytes(b"\x7fELF rubbish")
        (machine.commands / name).chmod(mode)
    assert machine.read() == Clocks()


@pytest.mark.parametrize("rubbish", [b"", b"\xff\xfe\0", b"many", b"9" * 5000, b"nan", None])
def test_files_that_hold_rubbish_or_cannot_be_read(orin: Machine, rubbish: bytes | None) -> None:
    (orin.commands / "nvpmodel").unlink()
    orin.write("var/lib/nvpmodel/status", "")
    for file in [path for path in orin.root.rglob("*") if path.is_file()]:
        file.unlink()
        if rubbish is None:
            file.mkdir()  # reading it fails, even for root
        else:
            file.write_bytes(rubbish)
    assert orin.read() == Clocks(jetson=True)


@pytest.mark.parametrize(
    "answer", [PermissionError(13, "Permission denied"), TypeError("can't concat NoneType to bytes")]
)
def test_a_sensor_that_sleeps(orin: Machine, monkeypatch: pytest.MonkeyPatch, answer: Exception) -> None:
    read_text = Path.read_text

    def read(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name in ("temp", "curr2_input"):
            raise answer
        return read_text(path, encoding, errors)

    monkeypatch.setattr(Path, "read_text", read)
    found = orin.read()
    assert (found.gpu_mhz, found.power_w, found.temperature_c) == (306, None, None)


def test_python_answers_a_sleeping_sensor_as_above() -> None:
    """A read that would block gives EAGAIN, as a sensor of a part without power does."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        with open(reading, encoding="utf-8") as file, pytest.raises((TypeError, OSError)):
            file.read()
    finally:
        os.close(writing)


def test_this_machine_whatever_it_is() -> None:
    found = read_clocks()
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    assert all(isinstance(line, str) for line in found.advice)
