"""Answer sources: models in memory and behind servers, asked in every modality they take."""
