"""Names that a config may use, each with the place of what it stands for. Nothing is imported before `resolve`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .nearest import nearest

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Entry:
    """What a name stands for: "module:function", what it is in one line, and the paper or work that it comes from."""

    target: str
    summary: str = ""
    source: str = ""


class Registry:
    """A table of name -> "module:function", or an `Entry` that also describes it. Only names in it are ever resolved.

    >>> codecs = Registry("codec", {"json": "json:loads", "float": Entry("builtins:float", "A number.")})
    >>> codecs.resolve("json")("[1]")
    [1]
    >>> codecs.entry("float").summary
    'A number.'
    """

    def __init__(self, kind: str, targets: Mapping[str, str | Entry]) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for name, target in targets.items():
            self.register(name, target)

    def register(self, name: str, target: str | Entry) -> None:
        """Add a name. ValueError when it is taken or the target is not "module:function"."""
        entry = target if isinstance(target, Entry) else Entry(target)
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered already, as {self._entries[name].target}")
        if not _TARGET.fullmatch(entry.target):
            raise ValueError(f"{self.kind} '{name}': got target '{entry.target}'; allowed: 'module:function'")
        self._entries[name] = entry

    def names(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """Target and description of a name. UsageError when it is not registered."""
        found = self._entries.get(name)
        if found is None:
            raise UsageError(self._miss(name))
        return found

    def resolve(self, name: str) -> Any:
        """Import and return what the name stands for. UsageError when it is not registered."""
        module, _, attribute = self.entry(name).target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _miss(self, name: str) -> str:
        close = nearest(name, self.names())
        hint = f"; did you mean '{close}'?" if close else ""
        return f"unknown {self.kind} {name!r}; allowed: {', '.join(self.names())}{hint}"


SOURCES = Registry(
    "data source",
    {
        "digits": Entry(
            "scaledl.data.digits:load_digits", "1,797 handwritten digits of 8x8 pixels.", "Alpaydin and Kaynak 1998"
        ),
        "fashion_mnist": Entry(
            "scaledl.data.fashion_mnist:load_fashion_mnist", "70,000 pictures of clothes, 28x28.", "Xiao et al. 2017"
        ),
        "mnist": Entry("scaledl.data.mnist:load_mnist", "70,000 handwritten digits, 28x28.", "LeCun et al. 1998"),
        "cifar10": Entry("scaledl.data.cifar:load_cifar10", "60,000 photos, 32x32, 10 classes.", "Krizhevsky 2009"),
        "cifar100": Entry("scaledl.data.cifar:load_cifar100", "60,000 photos, 32x32, 100 classes.", "Krizhevsky 2009"),
        "imagenet": Entry(
            "scaledl.data.imagenet:load_imagenet", "1.3 million photographs, 1,000 classes.", "Russakovsky et al. 2015"
        ),
        "iris": Entry("scaledl.data.tables:load_iris", "150 flowers, 4 measures, 3 classes.", "Fisher 1936"),
        "wine": Entry("scaledl.data.tables:load_wine", "178 wines, 13 measures, 3 classes.", "Aeberhard et al. 1992"),
        "breast_cancer": Entry(
            "scaledl.data.tables:load_breast_cancer", "569 tumours, 30 measures, 2 classes.", "Street et al. 1993"
        ),
        "diabetes": Entry(
            "scaledl.data.tables:load_diabetes", "442 patients, 10 measures; a number to predict.", "Efron et al. 2004"
        ),
        "ucr": Entry("scaledl.data.ucr:load_ucr", "A set of the UCR/UEA archive, in data.root.", "Dau et al. 2019"),
        "text": Entry(
            "scaledl.data.text:load_text", "One long text of yours, in windows of tokens, in data.root.", "your own"
        ),
        "prepared": Entry(
            "scaledl.data.prepared:load_prepared", "What `scaledl data prepare` made, in data.root.", "your own"
        ),
    },
)
FAMILIES = Registry(
    "model family",
    {
        "mlp": Entry("scaledl.models.mlp:build_mlp", "Multilayer perceptron, for any input.", "Rumelhart et al. 1986"),
        "resnet": Entry("scaledl.models.resnet:build_resnet", "Residual network, for images.", "He et al. 2016"),
        "cnn": Entry(
            "scaledl.models.cnn:build_cnn",
            "Convolutions, pooling, dense layers, for images and series.",
            "LeCun et al. 1998",
        ),
        "vit": Entry("scaledl.models.vit:build_vit", "Vision transformer, for images.", "Dosovitskiy et al. 2021"),
        "unet": Entry("scaledl.models.unet:build_unet", "U-Net, from images to maps.", "Ronneberger et al. 2015"),
        "autoencoder": Entry(
            "scaledl.models.autoencoder:build_autoencoder",
            "Squeezes an image, a series or a row into a few numbers and puts it together again.",
            "Hinton & Salakhutdinov 2006",
        ),
        "vae": Entry(
            "scaledl.models.vae:build_vae",
            "Variational autoencoder: the numbers are a distribution.",
            "Kingma & Welling 2014",
        ),
        "rnn": Entry(
            "scaledl.models.recurrent:build_rnn", "Simple recurrent layers, for texts and series.", "Elman 1990"
        ),
        "lstm": Entry(
            "scaledl.models.recurrent:build_lstm",
            "Recurrent layers with long short-term memory, for texts and series.",
            "Hochreiter & Schmidhuber 1997",
        ),
        "gru": Entry(
            "scaledl.models.recurrent:build_gru",
            "Gated recurrent units, for texts and series.",
            "Cho et al. 2014",
        ),
        "transformer": Entry(
            "scaledl.models.transformer:build_transformer",
            "Transformer encoder, for texts and series.",
            "Vaswani et al. 2017",
        ),
        "gpt": Entry("scaledl.models.gpt:build_gpt", "Causal language model, which writes on.", "Radford et al. 2019"),
        "external": Entry(
            "scaledl.models.external:build_external",
            "A model of timm, torchvision or transformers, or any class of one's own.",
            "Wightman 2019, Wolf et al. 2020",
        ),
    },
)
ACTIVATIONS = Registry(
    "activation",
    {
        "sigmoid": Entry(
            "torch.nn:Sigmoid", "1 / (1 + exp(-x)), between 0 and 1.", "Rumelhart, Hinton & Williams 1986"
        ),
        "tanh": Entry("torch.nn:Tanh", "Between -1 and 1, zero at zero.", "LeCun et al. 1998, Efficient BackProp"),
        "relu": Entry("torch.nn:ReLU", "max(0, x).", "Nair & Hinton 2010"),
        "leaky_relu": Entry("torch.nn:LeakyReLU", "x, or 0.01 x below zero.", "Maas, Hannun & Ng 2013"),
        "elu": Entry(
            "scaledl.models.activations:ELU", "x, or exp(x) - 1 below zero.", "Clevert, Unterthiner & Hochreiter 2016"
        ),
        "prelu": Entry("scaledl.models.activations:PReLU", "x, or a learned share of it below zero.", "He et al. 2015"),
        "selu": Entry("torch.nn:SELU", "A scaled ELU that keeps mean 0 and variance 1.", "Klambauer et al. 2017"),
        "silu": Entry("torch.nn:SiLU", "x sigmoid(x).", "Elfwing, Uchibe & Doya 2018"),
        "swish": Entry("torch.nn:SiLU", "Another name of silu.", "Ramachandran, Zoph & Le 2017"),
        "gelu": Entry("torch.nn:GELU", "x times the normal distribution's share below x.", "Hendrycks & Gimpel 2016"),
        "softmax": Entry(
            "torch.nn:Softmax",
            "Shares of one over the channels; for gates, rarely for hidden layers.",
            "Bridle 1990",
        ),
        "hardswish": Entry("torch.nn:Hardswish", "x relu6(x + 3) / 6, silu in pieces.", "Howard et al. 2019"),
        "mish": Entry("torch.nn:Mish", "x tanh(softplus(x)).", "Misra 2020"),
        "identity": Entry("torch.nn:Identity", "None: layers stay linear.", "Baldi & Hornik 1989"),
    },
)
INITS = Registry(
    "initialisation",
    {
        "default": Entry("scaledl.models.init:default_", "The family's own.", "the paper of each"),
        "kaiming_normal": Entry(
            "scaledl.models.init:kaiming_normal_", "Normal; outputs keep the inputs' scale.", "He et al. 2015"
        ),
        "kaiming_uniform": Entry("scaledl.models.init:kaiming_uniform_", "The same, uniform.", "He et al. 2015"),
        "xavier_normal": Entry(
            "scaledl.models.init:xavier_normal_",
            "Normal, between the scale of outputs and gradients.",
            "Glorot & Bengio 2010",
        ),
        "xavier_uniform": Entry("scaledl.models.init:xavier_uniform_", "The same, uniform.", "Glorot & Bengio 2010"),
        "orthogonal": Entry(
            "scaledl.models.init:orthogonal_", "Rows or columns at right angles.", "Saxe, McClelland & Ganguli 2014"
        ),
        "lecun_normal": Entry(
            "scaledl.models.init:lecun_normal_",
            "Normal, 1 / sqrt(inputs); goes with selu.",
            "LeCun et al. 1998, Efficient BackProp",
        ),
        "truncated_normal": Entry(
            "scaledl.models.init:truncated_normal_",
            "Kaiming normal without what is beyond two standard deviations.",
            "Keras",
        ),
        "lsuv": Entry(
            "scaledl.models.init:lsuv_init_",
            "Every layer's outputs scaled to unit variance on made-up inputs.",
            "Mishkin & Matas 2016",
        ),
    },
)
OPTIMIZERS = Registry(
    "optimizer",
    {
        "sgd": Entry(
            "scaledl.optim.optimizers:sgd",
            "Gradient descent, with Nesterov momentum.",
            "Robbins, Monro 1951",
        ),
        "momentum": Entry("scaledl.optim.optimizers:heavy_ball", "SGD with a heavy ball's momentum.", "Polyak 1964"),
        "nesterov": Entry(
            "scaledl.optim.optimizers:nesterov", "SGD with momentum that looks ahead.", "Nesterov 1983; Sutskever 2013"
        ),
        "adam": Entry("scaledl.optim.optimizers:adam", "Averages of gradients and squares.", "Kingma and Ba 2015"),
        "adamw": Entry(
            "scaledl.optim.optimizers:adamw", "Adam with decoupled weight decay.", "Loshchilov and Hutter 2019"
        ),
        "amsgrad": Entry(
            "scaledl.optim.optimizers:amsgrad", "Adam whose steps cannot grow again.", "Reddi et al. 2018"
        ),
        "nadam": Entry("scaledl.optim.optimizers:nadam", "Adam with Nesterov momentum, decoupled decay.", "Dozat 2016"),
        "adagrad": Entry("scaledl.optim.optimizers:adagrad", "A rate for each weight.", "Duchi et al. 2011"),
        "adadelta": Entry("scaledl.optim.optimizers:adadelta", "Adagrad over a moving window.", "Zeiler 2012"),
        "rmsprop": Entry("scaledl.optim.optimizers:rmsprop", "Steps by the mean square.", "Tieleman, Hinton 2012"),
        "adagrad_da": Entry(
            "scaledl.optim.adagrad_da:adagrad_da", "Adagrad by dual averaging; l1 makes zeros.", "Duchi et al. 2011"
        ),
        "ftrl": Entry(
            "scaledl.optim.ftrl:ftrl", "Follow the regularised leader, proximal; l1 makes zeros.", "McMahan et al. 2013"
        ),
        "lion": Entry("scaledl.optim.optimizers:lion", "Steps by the sign of a momentum.", "Chen et al. 2023"),
        "lamb": Entry("scaledl.optim.optimizers:lamb", "Adam with a rate for each layer.", "You et al. 2020"),
        "muon": Entry(
            "scaledl.optim.optimizers:muon", "Orthogonal steps of matrices; AdamW for the rest.", "Jordan et al. 2024"
        ),
    },
)
SCHEDULES = Registry(
    "schedule",
    {
        "constant": Entry("scaledl.optim.schedules:build_constant", "The same rate throughout.", "Robbins, Monro 1951"),
        "step": Entry("scaledl.optim.schedules:build_step", "Falls every so many epochs.", "He et al. 2016"),
        "multistep": Entry("scaledl.optim.schedules:build_multistep", "Falls at given epochs.", "He et al. 2016"),
        "exponential": Entry("scaledl.optim.schedules:build_exponential", "Falls by a factor an epoch.", "PyTorch"),
        "cosine": Entry("scaledl.optim.schedules:build_cosine", "Half a cosine.", "Loshchilov and Hutter 2017"),
        "cosine_restarts": Entry(
            "scaledl.optim.schedules:build_cosine_restarts", "Cosines that start anew.", "Loshchilov and Hutter 2017"
        ),
        "one_cycle": Entry("scaledl.optim.schedules:build_one_cycle", "One rise and one fall.", "Smith 2018"),
        "polynomial": Entry("scaledl.optim.schedules:build_polynomial", "A power of what is left.", "Chen et al. 2017"),
        "linear": Entry("scaledl.optim.schedules:build_linear", "A straight fall.", "Devlin et al. 2019"),
        "inverse_sqrt": Entry(
            "scaledl.optim.schedules:build_inverse_sqrt", "One over the root of the step.", "Vaswani et al. 2017"
        ),
        "plateau": Entry(
            "scaledl.optim.schedules:build_constant", "Falls when the validation loss no longer does.", "PyTorch"
        ),
    },
)
REGULARISERS = Registry(
    "regulariser",
    {
        "optimizer.weight_decay": Entry(
            "scaledl.optim.optimizers:parameter_groups", "Shrinks weights at each step.", "Loshchilov and Hutter 2019"
        ),
        "optimizer.l1": Entry("scaledl.optim.penalties:penalty", "Sum of absolute weights.", "Tibshirani 1996"),
        "optimizer.l2": Entry("scaledl.optim.penalties:penalty", "Half the sum of squares.", "Hoerl, Kennard 1970"),
        "optimizer.sam_rho": Entry("scaledl.optim.sam:ascend_", "Gradient at the worst weights.", "Foret et al. 2021"),
        "trainer.ema_decay": Entry(
            "scaledl.train.callbacks:MovingAverage", "Moving average of weights.", "Tarvainen and Valpola 2017"
        ),
        "trainer.swa_start": Entry("scaledl.train.swa:WeightAverage", "Mean of weights.", "Izmailov et al. 2018"),
        "trainer.gradient_clip": Entry(
            "torch.nn.utils:clip_grad_norm_", "Largest norm of a gradient.", "Pascanu et al. 2013"
        ),
        "trainer.gradient_clip_value": Entry(
            "torch.nn.utils:clip_grad_value_", "Largest entry of a gradient.", "Mikolov 2012"
        ),
        "trainer.early_stopping_patience": Entry(
            "scaledl.train.callbacks:EarlyStopping", "Ends when validation gets no better.", "Prechelt 1998"
        ),
        "task.label_smoothing": Entry(
            "scaledl.tasks.classification:ClassificationTask", "Softer labels.", "Szegedy et al. 2016"
        ),
        "model.dropout": Entry(
            "scaledl.models.dropout:dropout_layers", "Sets hidden values to zero.", "Srivastava et al. 2014"
        ),
        "model.dropout_kind": Entry(
            "scaledl.models.dropout:dropout_layers",
            "alpha, which keeps mean and variance; spatial, of whole channels.",
            "Klambauer et al. 2017; Tompson et al. 2015",
        ),
        "model.drop_path": Entry(
            "scaledl.models.dropout:DropPath", "Leaves out residual branches.", "Huang et al. 2016"
        ),
    },
)
_IMAGE_NAMES = {
    "crop": Entry("scaledl.data.augment.crop_flip:CropFlip", "Part of the padded image.", "Krizhevsky et al. 2012"),
    "flip": Entry("scaledl.data.augment.crop_flip:CropFlip", "Left and right exchanged.", "Krizhevsky et al. 2012"),
    "resized_crop": Entry(
        "scaledl.data.augment.resized_crop:resized_crop", "A part, resized to the whole.", "Szegedy et al. 2015"
    ),
    "policy": Entry(
        "scaledl.data.augment.policy:PolicyOperation",
        "RandAugment, TrivialAugment: operations drawn from a list.",
        "Cubuk et al. 2020; Mueller and Hutter 2021",
    ),
    "rotation": Entry("scaledl.data.augment.affine:draw_affine", "Turned to either side.", "Simard et al. 2003"),
    "translation": Entry("scaledl.data.augment.affine:draw_affine", "Shifted.", "Simard et al. 2003"),
    "scale": Entry("scaledl.data.augment.affine:draw_affine", "Made larger or smaller.", "Simard et al. 2003"),
    "shear": Entry("scaledl.data.augment.affine:draw_affine", "Made slanting.", "Simard et al. 2003"),
    "brightness": Entry("scaledl.data.augment.color:jitter", "Made lighter or darker.", "Howard 2013"),
    "contrast": Entry("scaledl.data.augment.color:jitter", "Further from its mean grey, or nearer.", "Howard 2013"),
    "saturation": Entry("scaledl.data.augment.color:jitter", "More or less colour.", "Howard 2013"),
    "blur": Entry("scaledl.data.augment.filters:blur", "Gaussian blur.", "Chen et al. 2020, SimCLR"),
    "noise": Entry("scaledl.data.augment.filters:add_noise", "Gaussian noise.", "Sietsma and Dow 1991"),
    "cutout": Entry("scaledl.data.augment.filters:cutout", "A black square.", "DeVries and Taylor 2017"),
    "mixup": Entry("scaledl.data.augment.mix:Mix", "Mixed with another sample.", "Zhang et al. 2018"),
    "cutmix": Entry("scaledl.data.augment.mix:Mix", "A box of another image.", "Yun et al. 2019"),
}
_SERIES_NAMES = {
    "crop": Entry("scaledl.data.augment.sequence:crop_time", "A part, stretched.", "Le Guennec et al. 2016"),
    "warp": Entry("scaledl.data.augment.sequence:warp_time", "Faster here, slower there.", "Um et al. 2017"),
    "repeat": Entry("scaledl.data.augment.sequence:repeat_steps", "Steps that come twice.", "Ko et al. 2015"),
    "noise": Entry("scaledl.data.augment.sequence:add_noise", "Gaussian noise.", "Um et al. 2017"),
    "mask": Entry("scaledl.data.augment.sequence:mask_steps", "A span set to the mean.", "Park et al. 2019"),
}
_TEXT_NAMES = {
    "drop": Entry("scaledl.data.augment.text:drop_tokens", "Tokens left out.", "Wei and Zou 2019"),
    "swap": Entry("scaledl.data.augment.text:swap_tokens", "Neighbours exchanged.", "Wei and Zou 2019"),
    "mask": Entry("scaledl.data.augment.text:mask_spans", "Spans of mask tokens.", "Joshi et al. 2020"),
}
AUGMENTATIONS = Registry(
    "augmentation",
    {f"data.augment.{name}": entry for name, entry in _IMAGE_NAMES.items()}
    | {f"data.augment.series.{name}": entry for name, entry in _SERIES_NAMES.items()}
    | {f"data.augment.text.{name}": entry for name, entry in _TEXT_NAMES.items()},
)
TASKS = Registry(
    "task",
    {
        "classification": Entry(
            "scaledl.tasks.classification:ClassificationTask", "One class for each sample.", "Szegedy et al. 2016"
        ),
        "multilabel": Entry(
            "scaledl.tasks.multilabel:MultilabelTask",
            "Any of several labels for each sample.",
            "Tsoumakas and Katakis 2007",
        ),
        "regression": Entry(
            "scaledl.tasks.regression:RegressionTask", "One or more numbers for each sample.", "Legendre 1805"
        ),
        "tagging": Entry(
            "scaledl.tasks.tagging:TaggingTask", "A class for each step of a text or series.", "Collobert et al. 2011"
        ),
        "transcription": Entry(
            "scaledl.tasks.transcription:TranscriptionTask",
            "A row of labels for a longer row of steps, not aligned with it.",
            "Graves et al. 2006",
        ),
        "segmentation": Entry(
            "scaledl.tasks.segmentation:SegmentationTask",
            "A class for each pixel of an image.",
            "Long, Shelhamer and Darrell 2015",
        ),
        "language_modeling": Entry(
            "scaledl.tasks.language_modeling:LanguageModelingTask",
            "The next token of a text; needs no labels.",
            "Bengio et al. 2003",
        ),
        "masked_language_modeling": Entry(
            "scaledl.tasks.masked_language_modeling:MaskedLanguageModelingTask",
            "Tokens that are hidden; needs no labels.",
            "Devlin et al. 2019",
        ),
        "reconstruction": Entry(
            "scaledl.tasks.reconstruction:ReconstructionTask",
            "The input again, and how far off it is: anomaly scores.",
            "Hinton and Salakhutdinov 2006",
        ),
        "masked_reconstruction": Entry(
            "scaledl.tasks.masked_reconstruction:MaskedReconstructionTask",
            "Parts of an input that are hidden; needs no labels.",
            "He et al. 2022",
        ),
        "contrastive": Entry(
            "scaledl.tasks.contrastive:ContrastiveTask",
            "Vectors that are near for two views of a sample; needs no labels.",
            "Chen et al. 2020",
        ),
        "semi_supervised": Entry(
            "scaledl.tasks.semi_supervised:SemiSupervisedTask",
            "Classification where most samples have no label: what the model is sure of stands for it.",
            "Lee 2013; Sohn et al. 2020",
        ),
        "multi_task": Entry(
            "scaledl.tasks.multi_task:MultiTask", "Several heads on one model, one for each thing.", "Caruana 1997"
        ),
    },
)
LOSSES = Registry(
    "loss",
    {
        "cross_entropy": Entry(
            "scaledl.tasks.losses:cross_entropy",
            "Of one class of several; label_smoothing, class_weights go with it.",
            "Bridle 1990",
        ),
        "focal": Entry(
            "scaledl.tasks.losses:focal",
            "Cross entropy that leaves out what is right already; of one class of several, or of several labels.",
            "Lin et al. 2017, arXiv:1708.02002",
        ),
        "ctc": Entry(
            "scaledl.tasks.ctc:ctc",
            "Of a row of labels, over all ways to lay it along the steps.",
            "Graves et al. 2006",
        ),
        "nt_xent": Entry(
            "scaledl.tasks.pairs:nt_xent", "Cross entropy of who is whose other view.", "Chen et al. 2020"
        ),
        "triplet": Entry(
            "scaledl.tasks.pairs:triplet",
            "The nearest other sample has to be farther by a margin.",
            "Hermans et al. 2017",
        ),
        "bce": Entry(
            "scaledl.tasks.losses:bce", "Binary cross entropy of each label, or of each value in 0..1.", "Cox 1958"
        ),
        "mse": Entry("scaledl.tasks.losses:mse", "Mean squared error.", "Legendre 1805"),
        "mae": Entry("scaledl.tasks.losses:mae", "Mean absolute error (L1).", "Bassett and Koenker 1978"),
        "huber": Entry(
            "scaledl.tasks.losses:huber",
            "Squares that become lines beyond huber_delta.",
            "Huber 1964, 10.1214/aoms/1177703732",
        ),
    },
)
METRICS = Registry(
    "metric",
    {
        "accuracy": Entry(
            "scaledl.tasks.metrics:accuracy",
            "Share that is right: of samples, steps, pixels, labels.",
            "Sokolova and Lapalme 2009",
        ),
        "balanced_accuracy": Entry(
            "scaledl.tasks.metrics:balanced_accuracy",
            "Mean over the classes of the share of each that is right.",
            "Brodersen et al. 2010",
        ),
        "top5_accuracy": Entry(
            "scaledl.tasks.metrics:top5_accuracy",
            "Share whose class is among the five largest.",
            "Russakovsky et al. 2015",
        ),
        "exact_match": Entry(
            "scaledl.tasks.metrics:exact_match",
            "Share of samples all of whose labels are right.",
            "Sokolova and Lapalme 2009",
        ),
        "precision": Entry(
            "scaledl.tasks.metrics:precision",
            "Mean over classes of what is right of what was said.",
            "Kent et al. 1955",
        ),
        "recall": Entry(
            "scaledl.tasks.metrics:recall", "Mean over classes of what was found of what is there.", "Kent et al. 1955"
        ),
        "specificity": Entry(
            "scaledl.tasks.metrics:specificity", "Mean over classes of recall of what is not one.", "Yerushalmy 1947"
        ),
        "f1": Entry(
            "scaledl.tasks.metrics:f1",
            "Mean over classes of the harmonic mean of precision and recall.",
            "van Rijsbergen 1979",
        ),
        "iou": Entry(
            "scaledl.tasks.metrics:iou",
            "Mean over classes of intersection over union.",
            "Jaccard 1912, 10.1111/j.1469-8137.1912.tb05611.x",
        ),
        "dice": Entry("scaledl.tasks.metrics:f1", "The F1 of pixels.", "Dice 1945, 10.2307/1932409"),
        "matthews": Entry(
            "scaledl.tasks.metrics:matthews",
            "Correlation of said and true classes, -1..1.",
            "Gorodkin 2004, 10.1016/j.compbiolchem.2004.09.006",
        ),
        "auroc": Entry(
            "scaledl.tasks.metrics:auroc",
            "Area under the receiver operating curve, each class against the rest.",
            "Hanley and McNeil 1982",
        ),
        "average_precision": Entry(
            "scaledl.tasks.metrics:average_precision",
            "Area under precision over recall, mean over classes.",
            "Davis and Goadrich 2006",
        ),
        "calibration_error": Entry(
            "scaledl.tasks.metrics:calibration_error",
            "How far probabilities are from shares, 15 bins.",
            "Guo et al. 2017, arXiv:1706.04599",
        ),
        "mse": Entry("scaledl.tasks.metrics:mse", "Mean squared error, in squared units of the data.", "Legendre 1805"),
        "rmse": Entry(
            "scaledl.tasks.metrics:rmse",
            "Root of the mean squared error, in units of the data; mean over numbers.",
            "Willmott and Matsuura 2005",
        ),
        "mae": Entry(
            "scaledl.tasks.metrics:mae", "Mean absolute error, in units of the data.", "Willmott and Matsuura 2005"
        ),
        "r2": Entry(
            "scaledl.tasks.metrics:r2", "Share of the variance that is explained; mean over numbers.", "Wright 1921"
        ),
        "perplexity": Entry(
            "scaledl.tasks.metrics:perplexity",
            "Exponential of the mean cross entropy of a token.",
            "Jelinek et al. 1977",
        ),
        "bits_per_token": Entry(
            "scaledl.tasks.metrics:bits_per_token", "Mean cross entropy of a token, base 2.", "Shannon 1948"
        ),
        "bits_per_character": Entry(
            "scaledl.tasks.metrics:bits_per_character", "Cross entropy by characters of text, base 2.", "Shannon 1951"
        ),
    },
)
METHODS = Registry(
    "compression method",
    {
        "distill": Entry("scaledl.compress.distill:apply", "Train a smaller student.", "Hinton et al. 2015"),
        "prune": Entry("scaledl.compress.prune:apply", "Remove channels, then fine-tune.", "Fang et al. 2023"),
        "qat": Entry("scaledl.compress.quantize:apply_qat", "Train with int8 in mind.", "Jacob et al. 2018"),
        "ptq": Entry("scaledl.compress.quantize:apply_ptq", "Quantize to int8 with calibration.", "Jacob et al. 2018"),
    },
)
CALLBACKS = Registry("callback", {"freeze_after": "scaledl.compress.quantize:FreezeAfter"})
FORMATS = Registry(
    "export format",
    {
        "torchscript": Entry(
            "scaledl.export.torchscript:export_torchscript", "One file that torch alone can run.", "PyTorch"
        )
    },
)
CHANGES = Registry(
    "structure change",
    {
        "resize": "scaledl.models.structure:replay_resize",
        "quantize": "scaledl.models.quantized:replay_quantize",
    },
)


@dataclass(frozen=True)
class Listed:
    """A table that `scaledl list` shows, and the config key that takes its names."""

    key: str
    registry: Registry


LISTED = {
    "sources": Listed("data.source", SOURCES),
    "augmentations": Listed("a key each", AUGMENTATIONS),
    "models": Listed("model.family", FAMILIES),
    "tasks": Listed("task.name", TASKS),
    "losses": Listed("task.loss", LOSSES),
    "metrics": Listed("task.metrics", METRICS),
    "activations": Listed("model.activation", ACTIVATIONS),
    "initialisations": Listed("model.init", INITS),
    "optimizers": Listed("optimizer.name", OPTIMIZERS),
    "schedules": Listed("scheduler.name", SCHEDULES),
    "regularisers": Listed("a key each", REGULARISERS),
    "methods": Listed("compress.stages[].method", METHODS),
    "formats": Listed("export.format", FORMATS),
}
