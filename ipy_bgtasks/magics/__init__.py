"""The four magics: their words, their options and what Tab offers."""
