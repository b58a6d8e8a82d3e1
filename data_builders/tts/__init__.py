"""Voices behind one seam: each module holds one engine, `data_builders.speech.TTS_ENGINES` names them."""
