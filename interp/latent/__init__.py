"""Latent chain of thought: latent steps as variables of a causal model, and what is done to them.

How to add a kind of model. Subclass `subject.Subject` (or `hf.HFSubject`, which leaves `produce`
alone to write, where a step is vectors at the input of a causal language model) and decide three
things. *What is a step?* Steps count from 1, and a node holds one or more vectors a row: one for a
latent slot (`subjects`), one for each token of a step in text (`explicit`), one for each position
of the prompt in a recurrence (`recurrent_depth`). A vector that a row does not have is not `seen`;
a row that has ended has none (`soft_thinking`). *When is it consumed?* `State(t, node, memory)`
holds h_{t+1}, made and not yet consumed, and C_t, all that steps 1..t left behind. `step(state, v)`
is do(h_{t+1} := v); `close` reads C_t, and may not look at the state's own node. Say so in
`convention`. *Which edges has a step?* Name in `edges` those of `interventions.Edge` that exist.

States are values: `step` makes new tensors. What more a memory has to hold goes into a subclass of
`Memory` with a `take` of its own, and what more a node knows (the tokens that it mixes) into one of
`Node`; the vector fed may be a plain node that an operator made. A row's numbers may not depend on
its batch. Then operators, influence, necessity and commitment work as they are, and these tests
come first: the identity is exactly 0 on every edge, a ragged batch gives what its problems give
alone, a parent is as it was after ten branches, and by hand what do() at step t does to a read-out
at t and at T.
"""
