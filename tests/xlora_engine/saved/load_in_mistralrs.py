"""Loads exported compositions in mistral.rs; a process of its own, for its library starts threads."""

import os
import sys

from mistralrs import Runner, Which

for folder in sys.argv[1:]:
    try:
        Runner(
            which=Which.XLora(
                xlora_model_id=folder, order=f"{folder}/xlora-ordering.json", model_id=f"{folder}/base"
            )
        )
    except BaseException as refusal:  # a panic is no Exception
        sys.stdout.write(f"{folder}: {refusal}\n")
    else:
        sys.stdout.write(f"{folder}: loaded\n")
sys.stdout.flush()
os._exit(0)  # its engines are threads that do not end
