"""Instance types, with the operator's prices and accounts' switches; and packages (installed Blenders)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import sqlalchemy as sa

from framefarm.core import blender_features
from framefarm.core import packages as blenders
from framefarm.core.errors import InvalidInput, NotFound
from framefarm.sandboxing import userland
from framefarm.server.accounts.audit import audit
from framefarm.server.actor import Actor
from framefarm.server.catalog.tables import instance_switches, instance_types, packages
from framefarm.server.database import Tx
from framefarm.server.rows import InstanceTypeRow, PackageRow
from framefarm.server.tenancy import scoped

CORE_HOUR_MICROS = 50_000
PREEMPTIBLE_CORE_HOUR_MICROS = 20_000
"""First prices of a core-hour in micro-dollars, until the operator sets others."""


def create_local_types(tx: Tx, cores: int, memory_bytes: int) -> None:
    """Create `local-1`, `local-2`, `local-4` … up to the node's cores, each with its share of the memory."""
    sizes = [1 << i for i in range(cores.bit_length()) if 1 << i <= cores]
    if cores not in sizes:
        sizes.append(cores)
    rows = [
        {
            "id": f"local-{size}",
            "name": f"Local, {size} core{'s' if size > 1 else ''}",
            "description": f"{size} of this machine's {cores} cores",
            "cores": size,
            "memory_bytes": memory_bytes * size // cores,
            "operating_system": "linux",
            "price_micros": CORE_HOUR_MICROS * size,
            "preemptible_price_micros": PREEMPTIBLE_CORE_HOUR_MICROS * size,
            "position": size,
        }
        for size in sizes
    ]
    tx.conn.execute(sa.insert(instance_types), rows)


@dataclass(frozen=True, slots=True)
class Instance(InstanceTypeRow):
    """An instance type, and whether one account has it enabled."""

    enabled: bool


def list_instances(tx: Tx, account_id: str, *, disabled_too: bool) -> list[Instance]:
    """All instance types for an account, smallest first; with `disabled_too` also those it disabled."""
    switches = {
        r.instance_type_id: r.enabled
        for r in tx.conn.execute(scoped(sa.select(instance_switches), instance_switches, account_id))
    }
    query = sa.select(instance_types).order_by(instance_types.c.position, instance_types.c.id)
    types = [Instance(**row._mapping, enabled=switches.get(row.id, True)) for row in tx.conn.execute(query)]
    return [t for t in types if disabled_too or t.enabled]


def instance_for(tx: Tx, account_id: str, instance_id: str, is_admin: bool) -> Instance:
    """The instance type that a job names; to a member a disabled one is unknown. Raises InvalidInput."""
    rows = list_instances(tx, account_id, disabled_too=is_admin)
    for row in rows:
        if row.id == instance_id:
            return row
    known = ", ".join(r.id for r in rows) or "none"
    raise InvalidInput.of("instance_type", f"there is no such instance type; there are: {known}", instance_id)


def switch_instance(tx: Tx, actor: Actor, instance_id: str, enabled: bool) -> Instance:
    """Enable or disable an instance type for the actor's account. Raises NotFound."""
    for row in list_instances(tx, actor.account_id, disabled_too=True):
        if row.id == instance_id:
            break
    else:
        raise NotFound(f"There is no instance type {instance_id}.")
    if row.enabled != enabled:
        old = scoped(sa.delete(instance_switches), instance_switches, actor.account_id)
        tx.conn.execute(old.where(instance_switches.c.instance_type_id == instance_id))
        tx.conn.execute(
            sa.insert(instance_switches).values(
                account_id=actor.account_id, instance_type_id=instance_id, enabled=enabled
            )
        )
        before, after = {"enabled": row.enabled}, {"enabled": enabled}
        audit(tx, actor, "instance.switch", instance_id, before=before, after=after)
    return replace(row, enabled=enabled)


def set_price(tx: Tx, instance_id: str, on_demand: int | None, preemptible: int | None) -> InstanceTypeRow:
    """Set prices of an instance type, in micro-dollars per hour; None keeps one. Live sessions keep theirs.

    Raises NotFound, InvalidInput.
    """
    query = sa.select(instance_types).where(instance_types.c.id == instance_id)
    row = tx.row_or_none(InstanceTypeRow, query)
    if row is None:
        known = ", ".join(tx.conn.execute(sa.select(instance_types.c.id)).scalars())
        raise NotFound(f"There is no instance type {instance_id}; there are: {known}.")
    prices = {"price_micros": on_demand, "preemptible_price_micros": preemptible}
    values = {name: micros for name, micros in prices.items() if micros is not None}
    if any(micros < 0 for micros in values.values()):
        raise InvalidInput.of("price", "must not be negative")
    if values:
        key = instance_types.c.id == instance_id
        tx.conn.execute(sa.update(instance_types).where(key).values(values))
        before = {k: getattr(row, k) for k in values}
        audit(tx, "operator", "price.set", instance_id, before=before, after=values)
    return tx.row(InstanceTypeRow, query)


# ------------------------------------------------------------------------------ packages


@dataclass(frozen=True, slots=True)
class Package(PackageRow):
    """An installed Blender; its status is `missing` where its files were deleted."""

    status: Literal["available", "missing"]


def list_packages(tx: Tx) -> list[Package]:
    """Installed Blenders, newest release first."""
    installed = [
        Package(**row._mapping, status="available" if userland.is_whole(row.path) else "missing")
        for row in tx.conn.execute(sa.select(packages))
    ]
    return sorted(installed, key=lambda package: blenders.release_key(package.release), reverse=True)


def package_for(tx: Tx, name: str, *, bubblewrap: bool = True) -> Package:
    """The package that a job's name fits: `blender-4-2`, `4.2`, `4.2.23` … Raises InvalidInput.

    Of several the newest; an archive only where its id is named, or nothing else fits.
    `bubblewrap`: whether the farm's sandboxes are made by it; a Blender with its own userland needs it.
    """
    available = [package for package in list_packages(tx) if package.status == "available"]
    unusable = ""
    try:
        wanted = blenders.parse_version(name)
    except InvalidInput:
        wanted = None
    for package in sorted(available, key=lambda package: package.kind == "archive"):
        if package.id == name or (wanted is not None and wanted.accepts(package.release)):
            if bubblewrap or userland.userland_of(package.path) is None:
                return package
            unusable = package.id
    if unusable:
        problem = "has its own userland, which can't be used without bubblewrap (--sandbox none)"
        raise InvalidInput.of("blender_version", f"{unusable} {problem}", name[:100])
    known = ", ".join(package.id for package in available) or "none yet; the operator installs one"
    raise InvalidInput.of("blender_version", f"is not installed; there are: {known}", name[:100])


def register_package(
    tx: Tx,
    *,
    id: str,
    kind: str,
    path: str,
    release: str,
    default: bool,
    lacks: Iterable[str] | None = None,
) -> Package:
    """Add an installed Blender, or replace the package of the same id. The first one becomes the default.

    `lacks`: the codes of the features that it lacks; None if they were not tried.
    """
    features = blender_features.lacking(kind, lacks)
    values = {
        "version": ".".join(release.split(".")[:2]),
        "release": release,
        "kind": kind,
        "path": path,
        "installed_ms": tx.now_ms,
        "lacks": None if features is None else [feature.value for feature in features],
    }
    known = tx.row_or_none(PackageRow, sa.select(packages).where(packages.c.id == id))
    if known is None:
        tx.conn.execute(sa.insert(packages).values(id=id, is_default=False, **values))
    else:
        tx.conn.execute(sa.update(packages).where(packages.c.id == id).values(values))
    has_default = tx.conn.execute(sa.select(packages.c.id).where(packages.c.is_default)).first()
    if default or has_default is None:
        tx.conn.execute(sa.update(packages).values(is_default=packages.c.id == id))
    before = {"release": known.release} if known else None
    audit(tx, "operator", "package.register", id, before=before, after={"release": release, "path": path})
    return next(r for r in list_packages(tx) if r.id == id)
