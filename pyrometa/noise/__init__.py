"""Random numbers as an argument of the loss.

A program's draws are recorded once for each shape of data, as a tape. From then on the noise of a whole
meta-step is drawn ahead from the tape and handed to the program draw by draw, so a task's numbers do not
depend on how or in which order the tasks are run.

Draws that are built on normals and uniforms are made ahead, among them choices (Bernoulli, Categorical), the order of a
subsampled plate and the masks of dropout. Of others (Gamma, Poisson, ...) the seed is drawn ahead, for a stream of the
task's own. Where a program's draws depart from its tape, the rest of the run draws from a stream that starts from the
task's noise; only where there is none, and where a draw brings a generator of its own, do engines agree in distribution
only.
"""
