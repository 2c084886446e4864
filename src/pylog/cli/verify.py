"""`pylog verify`: checks every byte of a segment file, topic or data directory; repairs where told to."""

from __future__ import annotations

import argparse

from pylog.cli.findings import Finding, exit_code
from pylog.cli.output import Output, counted
from pylog.cli.places import Target, all_segments, data_directory, find_target

NOTES = """\
a finding is
  corrupt  records that were on disk cannot be read (exit code 4)
  torn     what a crash left above the durable mark; the next open drops it (exit code 3)
  damaged  something redundant or rebuildable is broken, no record is lost (exit code 3)
--repair writes a sound copy beside each damaged segment, keeps the damaged one as *.damaged and puts the
copy in its place; records that cannot be read are dropped from the log and named. Without --execute it only
shows the plan."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to check and whether to repair it."""
    parser.epilog = NOTES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "target", nargs="?", metavar="FILE|TOPIC|DIR", help="what to check (default: the data directory)"
    )
    parser.add_argument("--repair", action="store_true", help="show how what is damaged would be repaired")
    parser.add_argument("--execute", action="store_true", help="with --repair: do it")
    parser.add_argument("-q", "--quiet", action="store_true", help="print findings only")


def run(args: argparse.Namespace, out: Output) -> int:
    """Check, print what was found, and repair where told to."""
    out.quiet = args.quiet
    target = find_target(args.target, args.directory) if args.target else data_directory(args.directory)
    findings = check(target, args, out)
    for finding in findings:
        if out.json:
            out.json_line(finding.as_row())
        else:
            out.line(finding.as_line())
    if args.repair:
        from pylog.cli.repair import repair

        if not repair(target, findings, out, execute=args.execute):
            return exit_code(findings)
        args.quiet = out.quiet = True
        return exit_code(check(target, args, out))
    return exit_code(findings)


def check(target: Target, args: argparse.Namespace, out: Output) -> list[Finding]:
    """Check the target and print a row for each partition; return what was found."""
    from pylog.cli import partition_check

    segments = all_segments(target)
    findings: list[Finding] = []
    with out.progress("verify", sum(path.stat().st_size for path in segments)) as done:
        if target.kind == "segment":
            reports = [partition_check.check_single(target.path, done)]
        elif target.kind == "partition":
            reports = [partition_check.check_partition(target.path, None, done)]
        elif target.kind == "topic":
            reports, findings = partition_check.check_topic(target.path, done)
        else:
            reports, findings = partition_check.check_directory(target.path, done)
    if not args.quiet:
        out.rows([report.as_row() for report in reports])
    for report in reports:
        findings += report.findings
    bad = sum(finding.kind != "note" for finding in findings)
    verdict = counted(bad, "finding") if bad else "everything holds"
    checked = f"{counted(len(segments), 'segment')} of {counted(len(reports), 'partition')}"
    out.status(f"checked {checked}: {verdict}")
    return findings
