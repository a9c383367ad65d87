"""Every technique, by the name that recipes and run files use."""

from ._base import Calibration, FilePass, Materials, ModulePass, Pass, Scope, TrainingPass, TuningPass
from .fp16 import Fp16Pass
from .int8_dynamic import Int8DynamicPass
from .int8_static import Int8StaticPass
from .prune import PrunePass
from .recover import RecoverPass
from .student import StudentPass
from .weight_only import WeightOnlyPass

MODULE: dict[str, ModulePass] = {"student": StudentPass(), "prune": PrunePass()}
TRAINING: dict[str, TrainingPass] = {"recover": RecoverPass()}
FILE: dict[str, FilePass] = {
    "fp16": Fp16Pass(),
    "int8_static": Int8StaticPass(),
    "int8_dynamic": Int8DynamicPass(),
    "weight_only": WeightOnlyPass(),
}
TUNING: dict[str, TuningPass] = {}
PASSES: dict[str, Pass] = {**MODULE, **TRAINING, **FILE, **TUNING}

__all__ = ["FILE", "MODULE", "PASSES", "TRAINING", "TUNING", "Calibration", "Materials", "Pass", "Scope"]
