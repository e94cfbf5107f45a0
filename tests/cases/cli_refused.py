"""What is refused, with what is said of it: values that are set in a recipe that is right else, and command lines."""

SETS = [
    ("model=3", "--set: model must be an import path such as 'schools:model', got 3"),
    (
        "model=recipe_program",
        "--set: model is 'recipe_program', and an import path is 'module:name', as in 'schools:model'",
    ),
    (
        "model=recipe_program:modl",
        "--set: model is 'recipe_program:modl', and recipe_program has no 'modl': did you mean 'model'?",
    ),
    (
        "model=no_such_module:model",
        "--set: model names module 'no_such_module', which is neither in HERE nor installed",
    ),
    ("model=recipe_program:NUMBER", "--set: model is 'recipe_program:NUMBER', which is no function but int"),
    (
        "guide=AutoNormel",
        "--set: guide is 'AutoNormel', which is no import path ('schools:guide') and no "
        "autoguide: did you mean 'AutoNormal'?",
    ),
    ("guide=[1]", "--set: guide must be an import path such as 'schools:guide', got [1]"),
    ("guide.name=AutoNormal", "--set guide is 'AutoNormal' and no table"),
    ("modle=recipe_program:model", "--set: modle is a key that nobody knows: did you mean 'model'?"),
    ("trianer.max_steps=3", "--set: trianer is a table that nobody knows: did you mean 'trainer'?"),
    (
        "meta=recipe_program:one_thing",
        "recipe.toml: model stands beside meta, whose function makes all of the MetaSVI: keep one of them",
    ),
    ("meta.step=3", "--set: [meta] step is a key that nobody knows: did you mean 'steps'?"),
    ("meta.steps=many", "--set: [meta] steps must be a whole number, got 'many'"),
    ("meta.reduction=max", "--set: [meta] reduction must be 'sum' or 'mean', got 'max'"),
    (
        "meta.model=recipe_program:model",
        "--set: [meta] model is a key that nobody knows: there are steps, adapt, reduction",
    ),
    ("optim.name=Adma", "--set: [optim] name is 'Adma', which nobody knows: did you mean 'Adam'?"),
    (
        "optim.name=3",
        "--set: [optim] name must be the name of a class, one of Adafactor, Muon, Adadelta, "
        "Adagrad, Adam, Adamax, AdamW, ASGD, NAdam, RAdam, RMSprop, Rprop, SGD, SparseAdam, "
        "ClippedAdam, DCTAdam, AdagradRMSProp, got 3",
    ),
    ("optim.lrr=0.1", "--set: [optim] lrr is a key that nobody knows: did you mean 'lr'?"),
    ("optim.lr=fast", "--set: [optim] lr must be a number, got 'fast'"),
    ("optim.lr=-1.0", "recipe.toml with --set: [optim] can't be followed: Invalid learning rate: -1.0"),
    ("optim.betas=[0.9]", "--set: [optim] betas must be an array of 2, got [0.9]"),
    ("optim.clip_norm=much", "--set: [optim] clip_norm must be a number, got 'much'"),
    ("inner.name=SDG", "--set: [inner] name is 'SDG', which nobody knows: did you mean 'SGD'?"),
    ("inner.lerning=true", "--set: [inner] lerning is a key that nobody knows: did you mean 'learn'?"),
    (
        "inner.learn=layers",
        "--set: [inner] learn must be 'rate' or 'layer' or 'layer_step' or 'parameter', got 'layers'",
    ),
    ("inner.lr=-0.1", "--set: [inner] lr must be positive and finite, got -0.1"),
    ("inner=3", "--set: inner must be a table, as in [inner], got 3"),
    (
        "meta_gradient.name=Unroled",
        "--set: [meta_gradient] name is 'Unroled', which nobody knows: did you mean 'Unrolled'?",
    ),
    (
        'meta_gradient={name="Unrolled",first_order="yes"}',
        "--set: [meta_gradient] first_order must be true or false, got 'yes'",
    ),
    ("engine.record=sometimes", "--set: [engine] record must be true or false or 'auto', got 'sometimes'"),
    ("engine.chunk_size=0", "--set: [engine] chunk_size must be a positive number of tasks or None, got 0"),
    ("engine.recrd=true", "--set: [engine] recrd is a key that nobody knows: did you mean 'record'?"),
    ("noise.points=soboll", "--set: [noise] points must be 'random' or 'antithetic' or 'sobol', got 'soboll'"),
    ("loss.name=Trace_ELB", "--set: [loss] name is 'Trace_ELB', which nobody knows: did you mean 'Trace_ELBO'?"),
    ('loss={name="Trace_ELBO",num_particles=1.5}', "--set: [loss] num_particles must be a whole number, got 1.5"),
    (
        'score={name="PredictiveLoss",particles=3}',
        "--set: [score] particles is a key that nobody knows: did you mean 'num_particles'?",
    ),
    (
        "tasks.source=recipe_program:one_thing",
        "--set: [tasks] source is 'recipe_program:one_thing', which must return (train, validation), and returned int",
    ),
    ("tasks.source=recipe_program:wrong", "recipe.toml with --set: [tasks] can't be followed: the disk is full"),
    ("tasks.counts=3", "--set: [tasks] counts is a key that nobody knows: did you mean 'count'?"),
    ("tasks.count=1.5", "--set: [tasks] count must be a whole number, got 1.5"),
    ("tasks={}", "--set: [tasks] needs source = 'schools:make_tasks' or path = 'data/*.parquet'"),
    ('tasks={path="no/*.parquet"}', "--set: [tasks] group is missing: from_parquet needs it"),
    (
        'tasks={path="no/*.parquet",group="user",columns=["x"]}',
        "--set: [tasks] can't be followed: no file matches 'HERE/no/*.parquet', looked up from HERE",
    ),
    (
        'tasks={path="no/*.parquet",group="user",columns=[["x",1]]}',
        "--set: [tasks] columns must be a name, or an array with an entry for each argument of "
        "the model, as in [['x0', 'x1'], 'y'], got [['x', 1]]",
    ),
    (
        'tasks={path="no/*.parquet",group="user",columns=["x"],suport=3}',
        "--set: [tasks] suport is a key that nobody knows: did you mean 'support'?",
    ),
    (
        'tasks={path="no/*.parquet",group="user",columns=["x"],fractions=[0.5,0.5]}',
        "--set: [tasks] fractions must be an array of 3, got [0.5, 0.5]",
    ),
    ("trainer.max_steps=0", "--set: [trainer] max_steps must be at least 1, got 0"),
    ("trainer.max_steps=1.5", "--set: [trainer] max_steps must be a whole number, got 1.5"),
    ("trainer={}", "--set: [trainer] max_steps is missing: Trainer needs it"),
    ("trainer.max_stps=3", "--set: [trainer] max_stps is a key that nobody knows: did you mean 'max_steps'?"),
    ("trainer.meta_batch=none", "--set: [trainer] meta_batch must be a whole number, got 'none'"),
    (
        'trainer.logger=["jsonl","csv"]',
        "--set: [trainer] logger 'csv' is unknown: give some of 'jsonl', 'tensorboard'",
    ),
    ("trainer.on_nonfinite=ignore", "--set: [trainer] on_nonfinite must be 'raise' or 'skip', got 'ignore'"),
    ("trainer.schedule=3", "--set: [trainer] schedule must be an import path such as 'schools:schedule', got 3"),
    (
        "trainer.schedule.name=CosineAnealingLR",
        "--set: [trainer.schedule] name is 'CosineAnealingLR', which nobody knows: did you mean 'CosineAnnealingLR'?",
    ),
    (
        'trainer.schedule={name="CosineAnnealingLR",Tmax=3}',
        "--set: [trainer.schedule] Tmax is a key that nobody knows: did you mean 'T_max'?",
    ),
    (
        'trainer.callbacks=["recipe_program:NUMBER"]',
        "recipe.toml with --set: [trainer] can't be followed: a callback must be a function of the moment, or "
        "have some of on_step, on_validation, on_checkpoint, on_end, got int",
    ),
    ("trainer.clip_norm=-1", "--set: [trainer] clip_norm must be positive and finite, got -1; None for no clipping"),
    ("adapter.grup=user", "--set: [adapter] grup is a key that nobody knows: did you mean 'group'?"),
    ("adapter.draws=lots", "--set: [adapter] draws must be a whole number, got 'lots'"),
    ("adapter.outputs=3", "--set: [adapter] outputs must be an array of texts, got 3"),
    ("folder=3", "--set: folder must be text, got 3"),
    ("trainer", "--set must be table.key=value, as in trainer.max_steps=100, got 'trainer'"),
    ("trainer.max_steps=", "--set trainer.max_steps has no TOML value in '' (Invalid value (at end of document))"),
    (
        "trainer.max_steps=1 2",
        "--set trainer.max_steps has no TOML value in '1 2' (Expected newline or end of document "
        "after a statement (at line 1, column 11))",
    ),
    ("trainer..max_steps=3", "--set must be table.key=value, as in trainer.max_steps=100, got 'trainer..max_steps=3'"),
    ("model.name=3", "--set model is 'recipe_program:model' and no table"),
]

# What begins as typer has it goes on in other words from version to version.
LINES = [
    ("train none.toml", "there is no recipe none.toml: pyrometa init FOLDER writes one"),
    ("train broken.toml", "broken.toml is no TOML: Invalid value (at line 1, column 9)"),
    ("train latin.toml", "latin.toml is no text in UTF-8"),
    ("train two three", "Got unexpected extra argument"),
    ("train --device tpu9", "--device tpu9 can't be used: "),
    ("train --device cuda", "--device cuda can't be used: "),
    ("train --seed -1", "Invalid value for '--seed': "),
    ("train --seed 4294967296", "--set: [trainer] seed must be below 2**32, got 4294967296"),
    ("train --resume", "HERE/run/checkpoints has no checkpoint to resume from: start with resume=None"),
    (
        "train --resume best",
        "HERE/run/checkpoints knows no best checkpoint, as the run was not validated or it is gone: resume='last'",
    ),
    (
        "train --resume no.safetensors",
        "there is no checkpoint HERE/no.safetensors: give resume='last', 'best' or the path of one",
    ),
    ("train --sett a=1", "No such option: --sett"),
    ("trian", "No such command 'trian'"),
    ("evaluate", "Missing argument 'RUN'."),
    ("evaluate none", "there is no run and no checkpoint HERE/none"),
    ("evaluate .", "HERE/checkpoints has no checkpoint yet"),
    ("evaluate run", "there is no run and no checkpoint HERE/run"),
    (
        "evaluate file.txt",
        "HERE/file.txt is truncated: it has 1 of 128 bytes: no whole one is beside it, so start anew or give another",
    ),
    ("adapt run", "Missing option '--data'."),
    ("adapt run --data a.parquet", "Missing option '--out'."),
    ("adapt run --data a.parquet --out .", "Invalid value for '--out': "),
    ("adapt run --data a --out b --batch-size 0", "Invalid value for '--batch-size': "),
    ("adapt none --data a --out b", "there is no run and no checkpoint HERE/none"),
    ("info none", "there is no run and no checkpoint HERE/none"),
    ("plot none", "there is no run and no checkpoint HERE/none"),
    ("init", "Missing argument 'FOLDER'."),
    ("init .", "recipe.toml is there already: give another folder"),
    ("demo --quick --seed x", "Invalid value for '--seed': "),
]
