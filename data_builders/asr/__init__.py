"""Ears behind one seam: each module holds one recogniser, `data_builders.speech_check.RECOGNISERS` names them."""
