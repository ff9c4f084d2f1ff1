"""Everything that making pictures needs and that lasts: body, renderer, backgrounds, subjects."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..body.model import BodyModel
from ..render.protocol import Appearance, SceneSurface
from ..types import Camera
from .backgrounds import Backgrounds
from .cameras import CropOptions
from .clothing import Clothes, Wardrobe
from .lighting import Sensor
from .outfit import Outfit, sample_outfit
from .surface import atlas
from .textures import paint, paint_texture

if TYPE_CHECKING:
    from collections.abc import Sequence

# Ids of subjects: training draws from [0, TRAIN_SUBJECTS), measurements and the demo from beyond.
TRAIN_SUBJECTS = 1_000_000
HELDOUT_SUBJECT = 2_000_000
DEMO_SUBJECT = 3_000_000


class WindowRenderer(Protocol):
    """The part of a renderer that scenes need: several persons in one depth buffer."""

    def render_window(
        self,
        vertices_m: np.ndarray,
        appearances: Sequence[Appearance],
        cameras: Camera | Sequence[Camera],
        width: int | None = None,
        height: int | None = None,
        scene: np.ndarray | None = None,
    ) -> SceneSurface: ...


@dataclass(frozen=True, eq=False)
class Subject:
    """One person's looks; the body under the clothes is drawn apart from them."""

    outfit: Outfit
    clothes: Clothes
    colours: np.ndarray  # (T,T,3) texture or (V,3) vertex colours, uint8

    def appearance(self, gain: np.ndarray | float = 1.0) -> Appearance:
        """As the renderer takes it; ``gain`` (3,) recolours the whole subject a little."""
        rgb = np.multiply(self.colours, np.asarray(gain, np.float32) / np.float32(255), dtype=np.float32)
        np.minimum(rgb, 1, out=rgb)
        return Appearance(texture=rgb) if rgb.ndim == 3 else Appearance(vertex_rgb=rgb)


class SynthEngine:
    """Makes and remembers subjects; deterministic: a subject's looks follow from its id and, for
    photographic prints on cloth, from the bank of backgrounds.

    ``subjects`` ids from ``first_subject`` on take turns in crops; the newest ``cache`` stay painted (about 35 ms each).
    """

    def __init__(
        self,
        body: BodyModel,
        renderer: WindowRenderer,
        backgrounds: Backgrounds,
        *,
        first_subject: int = 0,
        subjects: int = 800,
        cache: int = 800,
        texture_size: int = 192,
        options: CropOptions | None = None,
    ) -> None:
        self.body, self.renderer, self.backgrounds, self.options = body, renderer, backgrounds, options or CropOptions()
        self.wardrobe = Wardrobe(body)
        self.atlas = atlas(body, texture_size)
        self.sensor = Sensor()
        self.first_subject, self.subjects, self._cache_size = first_subject, subjects, cache
        self._cache: OrderedDict[int, Subject] = OrderedDict()
        photo_rng = np.random.default_rng(77)
        self._photos = [backgrounds.cut(photo_rng, 160) for _ in range(24)]

    def draw_subject(self, rng: np.random.Generator) -> int:
        """Id of a random subject of this engine's range."""
        return int(self.first_subject + rng.integers(self.subjects))

    def subject(self, subject_id: int) -> Subject:
        """Looks of one subject."""
        found = self._cache.get(subject_id)
        if found is None:
            found = self._make(subject_id)
            self._cache[subject_id] = found
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return found

    def _make(self, subject_id: int) -> Subject:
        rng = np.random.default_rng([91, subject_id])
        outfit = sample_outfit(rng)
        clothes = self.wardrobe.make(rng, outfit)
        if self.atlas is not None:
            colours = paint_texture(rng, outfit, self.atlas, self._photos)
        else:
            colours = paint(rng, outfit, self.wardrobe.points, self._photos, edge=0.03)
        return Subject(outfit, clothes, (colours * 255 + 0.5).astype(np.uint8))
