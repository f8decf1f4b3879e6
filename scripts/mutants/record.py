"""Mutants of ebm_cli/record/."""

from _mutant import Mutant

MUTANTS = [
    Mutant(
        "checkpoint: numbers that are not finite are taken",
        "record/checkpoint.py",
        "not tensor.isfinite().all()",
        "tensor.isnan().all()",
        "corruption::test_damage_on_purpose",
    ),
    Mutant(
        "checkpoint: one that vanishes while it is read is invalid",
        "record/checkpoint.py",
        ('            if not files.there(folder.parent, f"{folder.name}/{directory(folder, left[-1]).name}"):\n'),
        "            if False:\n",
        "lease::test_a_checkpoint_that_is_deleted_while_it_is_read_is_no_invalid_one",
    ),
    Mutant(
        "checkpoint: damage not noticed",
        "record/checkpoint.py",
        'if hashlib.sha256(data).hexdigest() != expected["sha256"]:',
        "if False:",
        "checkpoint::test_the_newest_that_verifies_is_used",
    ),
    Mutant(
        "files: links in place of files are followed",
        "record/files.py",
        (
            "    with suppress(FileNotFoundError):\n"
            "        _looked_at(folder, name)\n"
            "    file = os.open(name, flags | _OPENED"
        ),
        "    file = os.open(name, flags | (_OPENED & ~os.O_NOFOLLOW)",
        "run_files::test_a_link_in_place_of_a_file_is_not_followed",
    ),
    Mutant(
        "files: links in place of folders are followed",
        "record/files.py",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        "run_files::test_a_link_in_place_of_a_folder_is_not_followed",
    ),
    Mutant(
        "files: hard links are written through",
        "record/files.py",
        "    if found.st_nlink > 1:\n        with",
        "    if found.st_nlink > 9:\n        with",
        "run_files::test_a_file_with_another_name_elsewhere_becomes_a_copy",
    ),
    Mutant(
        "lease: the process id alone says who lives",
        "record/lease.py",
        'return _started(holder["pid"]) == holder.get("started")',
        'return _started(holder["pid"]) is not None',
        "lease::test_one_that_died_gives_way_at_once",
    ),
    Mutant(
        "lease: another machine's process is looked for here",
        "record/lease.py",
        'if holder.get("boot") is None or holder["boot"] != _boot():',
        'if holder.get("boot") is None:',
        "lease",
    ),
    Mutant(
        "lease: a silent process elsewhere is trusted for ever",
        "record/lease.py",
        "    if age > PATIENCE:\n        return False\n",
        "    if age > PATIENCE:\n        return True\n",
        "lease::test_one_that_died_gives_way_at_once",
    ),
    Mutant(
        "lease: its loss is not noticed",
        "record/lease.py",
        "self._lost = self._lost or _found(self.directory)[0] != self._identity",
        "self._lost = self._lost",
        "lease",
    ),
    Mutant(
        "lease: no heartbeat",
        "record/lease.py",
        "                os.utime(self._file)\n",
        "                pass\n",
        "lease::test_a_heartbeat_is_the_time_of_the_file",
    ),
    Mutant(
        "lease: nobody waits for a turn",
        "record/lease.py",
        ("    except FileExistsError:\n        return False\n    try:\n        os.write(file, json"),
        ("    except FileExistsError:\n        return True\n    try:\n        os.write(file, json"),
        "lease::test_a_claim_in_progress_is_waited_for",
    ),
    Mutant(
        "json: nan by its name",
        "record/plain_json.py",
        "return value if math.isfinite(value) else None",
        "return value",
        "together",
    ),
    Mutant(
        "json: infinities pass for finite",
        "record/plain_json.py",
        "value is not None and math.isfinite(value)",
        "value is not None and value == value",
        "together",
    ),
    Mutant(
        "records: the summary of an earlier end stays while the run goes on",
        "record/run.py",
        '            files.remove(self.path, "summary.json")\n',
        "",
        "records::test_a_run_that_goes_on_has_no_summary_until_it_ends",
    ),
    Mutant(
        "resume: an earlier summary is replaced",
        "record/run.py",
        ('            self._aside(["summary.json", *self._final_samples()])\n'),
        "            pass\n",
        "records::test_the_summary_of_a_run_that_goes_on_is_kept",
    ),
    Mutant(
        "resume: metrics not cut back",
        "record/run.py",
        "            file.truncate(size)",
        "            pass",
        "resume::test_killed_and_resumed_is_as_never_killed[data]",
    ),
    Mutant(
        "run: an edited record is gone on with",
        "record/run.py",
        "        if size and sha256 not in (None, self.metrics_sha256(size)):",
        "        if False:",
        "untrusted::test_an_edited_record_is_not_gone_on_with",
    ),
    Mutant(
        "run: metrics are decoded",
        "record/run.py",
        "files.read(self.path, self.metrics.name).splitlines())",
        "[line.encode() for line in files.text(self.path, self.metrics.name).splitlines()])",
        "untrusted::test_a_damaged_record_of_an_older_program_is_read_as_far_as_it_can_be",
    ),
]
