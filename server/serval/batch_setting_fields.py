"""The fields of the settings of batches; `serval.settings` reads them."""

from pathlib import Path

from pydantic import Field

from serval.setting_fields import SettingFields


class BatchSettingFields(SettingFields):
    """The other fields, and one for each setting of batches. Times are in seconds, sizes in bytes."""

    batch_folder: Path | None = Field(
        default=None,
        description="Folder with the files of `/v1/files` and `/v1/batches`, the same for all gateways of a"
        " key database; default: there are no batches.",
    )
    batch_concurrency: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Lines of batches that one worker runs at a time while it has no other requests.",
    )
    batch_concurrency_busy: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="The same while it has other requests, and until a second after them.",
    )
    batch_max_lines: int = Field(default=50_000, ge=1, le=10**6, description="Most lines of a batch.")
    batch_max_file_bytes: int = Field(
        default=200 << 20, ge=1024, description="Largest accepted file with the input of a batch."
    )
    batch_max_stored_bytes: int = Field(
        default=2 << 30, ge=1024, description="Most bytes of one key's files; more are refused."
    )
    batch_max_open: int = Field(
        default=20, ge=1, description="Most batches of one key that have not ended; more are refused."
    )
    batch_keep_s: int = Field(
        default=30 * 86_400,
        ge=86_400,
        le=10**9,
        description="How long files are kept, unless they are to expire earlier, and batches after they were"
        " created.",
    )
    batch_lease_s: int = Field(
        default=30,
        ge=3,
        le=3600,
        description="Time after which other workers take over the batches' lines of a dead one.",
    )
    batch_poll_s: float = Field(
        default=0.5, gt=0, le=60, description="How often each worker looks for batches to run."
    )
