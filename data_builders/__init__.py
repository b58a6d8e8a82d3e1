"""From questions to a data set of pairs: questions -> answers -> speech -> verification. Independent of training."""
