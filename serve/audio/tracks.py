"""Read ffmpeg's description of a recording's audio tracks, and choose one.

ffmpeg describes its input on standard error before it decodes. Metadata is indented there, so that a title
cannot pass for a track. Knows no process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve.audio.recording import Track
from serve.errors import UnsupportedOption

_END_OF_INPUT = re.compile(r"^(Stream mapping:|Output #)", re.MULTILINE)
_START = re.compile(r"^  Duration: [^,]+, start: (-?\d+\.\d+)", re.MULTILINE)
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+),", re.MULTILINE)
_TRACK = re.compile(r"^ {2,4}Stream #0:(\d+)(?:\[\w+\])?(?:\(([\w-]+)\))?: Audio: (.*)$", re.MULTILINE)

MAX_LISTED = 5
"""Most tracks that an error message lists."""

_SHORT_CODES_TEXT = """
afr:af amh:am ara:ar asm:as aze:az bak:ba bel:be bul:bg ben:bn bod:bo tib:bo bre:br bos:bs cat:ca ces:cs
cze:cs cym:cy wel:cy dan:da deu:de ger:de ell:el gre:el eng:en spa:es est:et eus:eu baq:eu fas:fa per:fa
fin:fi fao:fo fra:fr fre:fr glg:gl guj:gu hau:ha heb:he hin:hi hrv:hr hat:ht hun:hu hye:hy arm:hy ind:id
isl:is ice:is ita:it jpn:ja jav:jw kat:ka geo:ka kaz:kk khm:km kan:kn kor:ko lat:la ltz:lb lin:ln lao:lo
lit:lt lav:lv mlg:mg mri:mi mao:mi mkd:mk mac:mk mal:ml mon:mn mar:mr msa:ms may:ms mlt:mt mya:my bur:my
nep:ne nld:nl dut:nl nno:nn nor:no nob:no oci:oc pan:pa pol:pl pus:ps por:pt ron:ro rum:ro rus:ru san:sa
snd:sd sin:si slk:sk slo:sk slv:sl sna:sn som:so sqi:sq alb:sq srp:sr sun:su swe:sv swa:sw tam:ta tel:te
tgk:tg tha:th tuk:tk tgl:tl fil:tl tur:tr tat:tt ukr:uk urd:ur uzb:uz vie:vi yid:yi yor:yo zho:zh chi:zh"""
_SHORT_CODES = dict(pair.split(":") for pair in _SHORT_CODES_TEXT.split())
"""ISO 639-2 code, in both forms where there are two -> Whisper's language code."""


@dataclass(frozen=True)
class Listing:
    """A container's description of itself."""

    tracks: tuple[Track, ...]
    start_s: float = 0.0
    """Time of the first packet of any track, video included, in seconds."""
    duration_s: float = 0.0
    """Duration that the container states, of its longest track; 0 where it states none."""


def read_listing(text: str) -> Listing:
    """Parse what ffmpeg writes about its input at log level `info`."""
    end = _END_OF_INPUT.search(text)
    listing = text[: end.start()] if end else text
    found: dict[int, Track] = {}
    for index, language, rest in _TRACK.findall(listing):
        known = language.lower() if language and language != "und" else None
        found[int(index)] = Track(number=0, language=known, is_default="(default)" in rest)
    tracks = tuple(
        replace(found[index], number=number, n_tracks=len(found))
        for number, index in enumerate(sorted(found), 1)
    )
    start = _START.search(listing)
    return Listing(tracks, float(start[1]) if start else 0.0, _stated_duration_s(listing))


def _stated_duration_s(listing: str) -> float:
    stated = _DURATION.search(listing)
    if stated is None or "Estimating duration from bitrate" in listing:
        return 0.0
    hours, minutes, seconds = (float(part) for part in stated.groups())
    return 3_600 * hours + 60 * minutes + seconds


def wanted_tracks(tracks: Sequence[Track], wanted: str | None) -> list[Track]:
    """Return the tracks that may be transcribed, best first: those marked as default, then in order.

    Args:
        wanted: Number from 1, or language; None leaves the choice to the container.

    Raises:
        UnsupportedOption: No track is as wanted.
    """
    chosen = list(tracks)
    if wanted is not None:
        number = int(wanted) if wanted.isdecimal() else None
        chosen = [track for track in tracks if number == track.number or speaks(track, wanted)]
    if wanted is not None and not chosen:
        named = [_name(track) for track in tracks[:MAX_LISTED]] + ["..."] * (len(tracks) > MAX_LISTED)
        raise UnsupportedOption(
            "track", f"'{wanted[:40]}' is not one of the recording's audio tracks, {', '.join(named)}"
        )
    return sorted(chosen, key=lambda track: not track.is_default)


def speaks(track: Track, language: str) -> bool:
    """Tell whether a track is marked with a language, in any spelling of its code."""
    return track.language is not None and _code(track.language) == _code(language)


def _code(language: str) -> str:
    subtag = re.split("[-_]", language.strip().lower())[0]
    return _SHORT_CODES.get(subtag, subtag)


def _name(track: Track) -> str:
    marks = [track.language or "no language", *["default"] * track.is_default]
    return f"{track.number} ({', '.join(marks)})"
