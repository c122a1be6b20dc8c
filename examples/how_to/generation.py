"""Generation: why was each token written?

`generate` lets the model write and explains every token that it wrote, all of them from one forward pass.
`continuation` does the same for a text that you give. Rows of the matrix are steps, columns the tokens before them.
"""

from pathlib import Path

import lrp_fx

STORIES = Path(__file__).parents[1] / "models" / "stories260k"

explainer = lrp_fx.convert(STORIES)
generation = explainer.generate("Once upon a time, there was a little", max_new_tokens=6, do_sample=False)
print("written:", "".join(generation.written).strip())
print("matrix:", tuple(generation.matrix.shape), "(steps, tokens)")
generation.show()

# Each row closes: the logit of a step is the sum of its row, and of what went to no token.
rest = sum(generation.rest.values())
print("off by at most", f"{float((generation.scores - generation.matrix.sum(1) - rest).abs().max()):.0e}")

# Hand the relevance of written tokens on to what these were written from: all of it then stands on the prompt.
print("hops:", tuple(generation.hops(1).matrix.shape))

# The same for a text of your own, against what might have stood there.
compared = explainer.continuation("Once upon a time, there was a little", " girl", against=" boy")
print("girl rather than boy:", f"{float(compared.scores.sum()):+.3f}")
