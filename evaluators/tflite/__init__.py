"""INT8 QDQ ONNX file -> int8 .tflite with the same scales: what microcontrollers and Ethos-U NPUs take.

`quantized.py` reads the file, `operators.py` holds the table of operators, `plan.py` the graph under
construction as plain data, `writer.py` alone knows the flatbuffer.
"""

from .convert import to_tflite

__all__ = ["to_tflite"]
