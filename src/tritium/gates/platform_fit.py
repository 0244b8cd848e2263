"""E1: kernels, instruction sets, processor, back end and build go together."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy
from tritium.gates.classic import BACKENDS
from tritium.receipts import registry


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Kernel ISA ⊆ CPU flags ⊆ architecture; back end and kernel class; versions."""
    yield _isa(facts, policy)
    yield _backend(facts)
    if facts.evidence is None:
        yield from (not_applicable(name, "E1", "no evidence") for name in ("kernel_list", "build_versions", "machine"))
        return
    yield _kernel_list(facts)
    yield _versions(facts)
    yield _machine(facts, policy)


def _isa(facts: Facts, policy: Policy) -> Check:
    entries = [e for e in map(registry.find, facts.data["kernels"]) if e is not None]
    used = list(dict.fromkeys(e.isa for e in entries if e.isa != "any"))
    architectures = {policy.isas[isa]["architecture"] for isa in used if isa in policy.isas} - {"any"}
    if len(architectures) > 1:
        return check("kernel_isa", "E1", False, ", ".join(used), "kernels of one architecture",
                     f"No processor is {' and '.join(sorted(architectures))} at once")  # fmt: skip
    said = facts.data["environment"].get("OS", "")
    where = next((a for a in ("x86_64", "aarch64") if a in said), None)
    if facts.evidence is not None:
        where = facts.machine["architecture"]
        status = {row["name"]: row["status"] for row in facts.machine["isas"]}
        flags = set(facts.machine["cpu_flags"])
        for isa in used:
            lacks = [flag for flag in policy.isas[isa]["flags"] if flag not in flags] if isa in policy.isas else []
            if lacks:
                return check(
                    "kernel_isa", "E1", False, isa, f"CPU features {' '.join(lacks)}", "The processor lacks them"
                )
            if status.get(isa) != "ok":
                return check("kernel_isa", "E1", False, f"{isa}: {status.get(isa)}", "ok", "Its self-test did not pass")
        for name, state in status.items():
            expected = policy.isas.get(name)
            if expected is not None and state == "ok" and expected["architecture"] not in ("any", where):
                return check(
                    "kernel_isa", "E1", False, f"{name} ok on {where}", expected["architecture"], "It cannot run there"
                )
        foreign = [
            f for name, i in policy.isas.items() for f in i["flags"] if i["architecture"] != where and f in flags
        ]
        if foreign:
            return check("kernel_isa", "E1", False, foreign[0], f"features of {where}", "No such processor has it")
    wrong = architectures - {where}
    return check(
        "kernel_isa", "E1", not wrong or where is None, ", ".join(used), where, f"These kernels do not run on {where}"
    )


def _backend(facts: Facts) -> Check:
    backend = str(facts.data["backend"]).lower()
    if backend not in BACKENDS:
        return not_applicable("backend_class", "E1", "an unknown back end")
    entries = [e for e in map(registry.find, facts.data["kernels"]) if e is not None]
    foreign = [e.id for e in entries if e.backend not in (backend, "any") and e.kind != "mock"]
    # A GPU's program may leave steps to the CPU; the other way round the name is wrong.
    strange = [e.id for e in entries if e.backend != backend and e.backend not in ("any", "cpu")]
    wrong = strange if backend in ("cuda", "metal") else foreign
    if facts.evidence is not None and backend not in ("cpu", *(e.backend for e in entries)):
        return check("backend_class", "E1", False, facts.data["kernels"][0], f"a kernel of {backend}",
                     "Nothing of this back end was called")  # fmt: skip
    old = [e.id for e in entries if e.status == "historic" and e.kind != "fallback"]
    if facts.evidence is not None and old:
        return check("backend_class", "E1", False, old[0], "ids of today",
                     "An id that is no longer written stands beside evidence that was")  # fmt: skip
    return check("backend_class", "E1", not wrong, ", ".join(wrong[:3]) or None, f"kernels of {backend}",
                 "Another back end computed this")  # fmt: skip


def _kernel_list(facts: Facts) -> Check:
    counted = list(dict.fromkeys(s.kernel for s in facts.steps if s.calls))
    listed = facts.data["kernels"]
    odd = sorted(set(counted) ^ set(listed))
    if odd:
        return check("kernel_list", "E1", False, ", ".join(odd[:4]), "the kernels that were called",
                     "The list of kernels is not that of the ledger")  # fmt: skip
    return check("kernel_list", "E1", True if counted == listed else None, len(listed), f"{len(counted)}, as the ledger has them",
                 "A kernel is listed twice, or in another order")  # fmt: skip


def _versions(facts: Facts) -> Check:
    build, machine, environment = facts.evidence["build"], facts.machine, facts.data["environment"]  # type: ignore[index]
    pairs = [
        ("BITNET_VERSION", environment["BITNET_VERSION"], build["version"]),
        ("OS", environment["OS"], f"{machine['os']}-{machine['architecture']}"),
        ("build architecture", build["architecture"], machine["architecture"]),
    ]
    for name, one, other in pairs:
        if one != other:
            return check("build_versions", "E1", False, one, other, f"{name}: told twice, differently")
    return check("build_versions", "E1", True)


def _machine(facts: Facts, policy: Policy) -> Check:
    """Threads, cores, caches and memory that one machine can have."""
    m, run = facts.machine, facts.run
    facts_in_order = [
        ("cores", m["n_cores"] is None or m["n_cores"] <= m["n_cpus"], m["n_cores"], f"at most {m['n_cpus']} CPUs"),
        ("cores", m["n_cores"] is None or m["n_cpus"] <= 8 * m["n_cores"], m["n_cores"], f"an eighth of {m['n_cpus']} or more"),
        ("CPU quota", m["cpu_quota"] is None or m["cpu_quota"] > 0, m["cpu_quota"], "above 0"),
        ("peak memory", m["memory_bytes"] is None or run["peak_rss_bytes"] <= m["memory_bytes"], run["peak_rss_bytes"],
         f"at most {m['memory_bytes']}"),
    ]  # fmt: skip
    caches = [c for c in sorted(m["caches"], key=lambda c: (c["level"], c["kind"])) if c["kind"] != "Instruction"]
    for what in ("size_bytes", "n_cpus"):
        values = [c[what] for c in caches]
        facts_in_order.append(("caches", values == sorted(values), f"{what} {values}", "more with each level"))
    for c in m["caches"]:
        least, most, shared = policy.caches.get(c["level"], (0, 0, 0))
        good = least <= c["size_bytes"] <= most and c["n_cpus"] <= shared
        facts_in_order.append(
            (
                f"cache of level {c['level']}",
                good,
                f"{c['size_bytes']} for {c['n_cpus']} CPUs",
                f"{least} to {most} for up to {shared}",
            )
        )
    order = [name for name in policy.isas if name != "any"]
    names = [row["name"] for row in m["isas"]]
    # A build knows the sets of its day: those that came later are missing in what it wrote.
    known = [name for name in order if name in names]
    facts_in_order.append(
        ("instruction sets", names == known and "scalar" in names, ", ".join(names), f"of {', '.join(order)}, in order")
    )
    flags = m["cpu_flags"]
    facts_in_order.append(("CPU features", flags == sorted(set(flags)), ", ".join(flags), "each once, sorted"))
    for name, good, value, bound in facts_in_order:
        if not good:
            return check("machine", "E2", False, value, bound, f"{name}: no machine is like this")
    late = run["threads"] > m["n_cpus"]
    return check("machine", "E2", None if late else True, run["threads"], f"at most {m['n_cpus']} threads",
                 "More threads than CPUs: times say little")  # fmt: skip
