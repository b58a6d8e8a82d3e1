"""Speech LLM families: how each is loaded, prompted, heard, frozen and adapted. One module, one family."""
