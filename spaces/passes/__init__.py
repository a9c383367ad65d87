"""Every technique, by the name that recipes and run files use."""

from ._base import Calibration, FilePass, Materials, ModulePass, Pass, Scope, TrainingPass, TuningPass
from .binary import BinaryPass
from .depth import DepthPass
from .fp16 import Fp16Pass
from .heads import HeadsPass
from .int8_dynamic import Int8DynamicPass
from .int8_nncf import Int8NncfPass
from .int8_static import Int8StaticPass
from .low_rank import LowRankPass
from .mixed import MixedPass
from .mixed_int8 import MixedInt8Pass
from .pack_zeros import PackZerosPass
from .prune import PrunePass
from .qat import QatPass
from .recover import RecoverPass
from .sparsify import SparsifyPass
from .student import StudentPass
from .weight_only import WeightOnlyPass

MODULE: dict[str, ModulePass] = {
    "student": StudentPass(),
    "depth": DepthPass(),
    "prune": PrunePass(),
    "heads": HeadsPass(),
    "low_rank": LowRankPass(),
    "sparsify": SparsifyPass(),
}
TRAINING: dict[str, TrainingPass] = {"recover": RecoverPass()}
FILE: dict[str, FilePass] = {
    "fp16": Fp16Pass(),
    "int8_static": Int8StaticPass(),
    "int8_nncf": Int8NncfPass(),
    "int8_dynamic": Int8DynamicPass(),
    "mixed_int8": MixedInt8Pass(),
    "weight_only": WeightOnlyPass(),
    "mixed": MixedPass(),
    "binary": BinaryPass(),
    "pack_zeros": PackZerosPass(),
}
TUNING: dict[str, TuningPass] = {"qat": QatPass()}
PASSES: dict[str, Pass] = {**MODULE, **TRAINING, **FILE, **TUNING}

__all__ = ["FILE", "MODULE", "PASSES", "TRAINING", "TUNING", "Calibration", "Materials", "Pass", "Scope"]
