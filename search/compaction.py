"""Fewer records for the same story: what is noted of a trial as it is asked for is part of its creation.

A trial of twenty parameters is some thirty records as Optuna writes them, each with its distribution. They
are read again, one by one, by whoever opens the run.
"""

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
CREATE, PARAMETER, STATE, USER, SYSTEM = 4, 5, 6, 8, 9  # Optuna's op_codes
RUNNING = 0


def compacted(records: Iterable[Record], created: int) -> list[Record]:
    """Records that replay to the same study; `created` trials were made before them."""
    found: list[Record] = []
    fresh: dict[int, Record] = {}  # trials that are made here, by id
    for record in records:
        if record["op_code"] == CREATE:
            if "state" not in record:  # else it is made of a template, and whole
                record = fresh[created] = _open(record)
            created += 1
        elif record["op_code"] == STATE:
            fresh.pop(record["trial_id"], None)
        elif record.get("trial_id") in fresh and _folded(record, fresh[record["trial_id"]]):
            continue
        found.append(record)
    return found


def created_in(records: Iterable[Record]) -> int:
    return sum(record["op_code"] == CREATE for record in records)


def _open(record: Record) -> Record:
    """As Optuna writes a trial that is made of a template."""
    return {**record, "state": RUNNING, "value": None, "values": None, "distributions": {}, "params": {},
            "user_attrs": {}, "system_attrs": {}, "intermediate_values": {}}


def _folded(record: Record, creation: Record) -> bool:
    """Whether it is part of the creation now."""
    if record["op_code"] == PARAMETER:
        creation["distributions"][record["param_name"]] = record["distribution"]
        creation["params"][record["param_name"]] = record["param_value_internal"]
    elif record["op_code"] == USER:
        creation["user_attrs"].update(record["user_attr"])
    elif record["op_code"] == SYSTEM:
        creation["system_attrs"].update(record["system_attr"])
    else:
        return False
    return True
