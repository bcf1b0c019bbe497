"""Every error this project raises on purpose: one class per situation a caller can act on.

::

    PlglError                 exit code 1
    ├── SettingError          2   a setting is outside its range
    ├── PackError             1   a generator pack cannot be used
    │   ├── UnknownGenerator  2   no pack of that name
    │   ├── DamagedPack       1   a file is missing, altered or not what the manifest says
    │   │   └── UnsafeFile    1   a foreign file asks for what is not allowed, or for more than its limits
    │   ├── UnreadableModel   1   a file is not a model an importer can read
    │   └── FetchError        1   a generator could not be fetched, or is not the one that was pinned
    ├── PriorError            1   a prior is damaged, or made for another pack or another number of features
    ├── UpdateError           1   a message about an update cannot be read
    ├── CohortError           1   too few people took part
    ├── BudgetError           3   the privacy budget is spent
    ├── SignatureError        1   something signed does not carry the signature it needs
    ├── ProtocolError         1   the other side broke the rules of a secure sum; nothing was sent
    ├── ConsentError          1   the person did not agree to what a server asks for
    ├── ReleaseError          1   a published prior cannot be accepted
    ├── LedgerError           1   a journal or ledger is damaged or missing, so nothing may be spent
    ├── EnrolmentError        1   an invitation, membership or certificate cannot be used
    │   └── NoMembership      1   none of the memberships here is the one that is meant
    ├── DeploymentError       1   a server process could not be started or stopped answering
    ├── OutOfMemory           1   not even one item fits in what memory is left
    ├── PeopleError           1   a people plug-in answered with something unusable
    ├── RewardError           1   a reward says nothing a policy can learn from
    ├── FolderError           2   an output folder is not ours, or holds a run with other settings
    ├── ItemError             2   an item was never shown, or is rated already
    ├── StoreError            1   an encrypted store cannot be used
    │   ├── WrongKey          1   wrong passphrase, or the key is not in the keyring
    │   ├── DamagedStore      1   rows were altered, swapped or lost, or it is another kind of file
    │   ├── NewerStore        1   written by a newer version
    │   ├── StoreInUse        1   another process has it open
    │   └── KeyringError      1   the system keyring is locked or missing
    ├── StorageError          1   the disk refused a write
    └── Interrupted           3   stopped on request; what is finished is kept and can be resumed

A message names the value, the limit and the next step, in lower case without a full stop. It never holds a rating,
a latent a person saw, or a key.
"""


class PlglError(Exception):
    """Anything this project refuses to do; the command line prints its message and ends with ``exit_code``."""

    exit_code = 1


class SettingError(PlglError, ValueError):
    """A setting is outside its range."""

    exit_code = 2


class PackError(PlglError):
    """A generator pack cannot be used."""


class UnknownGenerator(PackError):
    """There is no generator pack of that name."""

    exit_code = 2


class DamagedPack(PackError):
    """A file of a pack is missing, altered, or not what its manifest says."""


class UnsafeFile(DamagedPack):
    """A foreign file asks for what is not allowed, or for more memory or time than its limits."""


class UnreadableModel(PackError):
    """A file is not a model that an importer can read: another format, cut short, or another architecture."""


class FetchError(PackError):
    """A generator could not be fetched, or what came is not what was pinned; nothing was added."""


class PriorError(PlglError):
    """A population prior is damaged, or was made for another pack or another number of features."""


class UpdateError(PlglError, ValueError):
    """A message of a round cannot be read, or holds something a sum must not contain."""


class CohortError(PlglError):
    """Too few people took part to publish anything."""


class BudgetError(PlglError):
    """The privacy budget does not allow another release."""

    exit_code = 3


class SignatureError(PlglError):
    """Something signed does not carry the signature it needs."""


class ProtocolError(PlglError):
    """The other side broke the rules of a secure sum; the member stops and sends nothing more."""


class ConsentError(PlglError):
    """A server asks for something the person did not agree to."""


class ReleaseError(PlglError):
    """A published prior cannot be accepted; the one in use stays."""


class LedgerError(PlglError):
    """A journal or ledger is damaged or missing, so nothing may be spent."""


class EnrolmentError(PlglError):
    """An invitation, a membership or a certificate cannot be used."""


class NoMembership(EnrolmentError):
    """None of the memberships on this machine is the one that is meant, or several are."""


class DeploymentError(PlglError):
    """A server process could not be started, or stopped answering."""


class OutOfMemory(PlglError):
    """Memory, of the computer or of its GPU, does not hold even the smallest piece of the work."""


class PeopleError(PlglError):
    """A people plug-in answered with something unusable."""


class RewardError(PlglError):
    """A reward is constant, NaN or infinite, raises, or has no gradient where one is needed."""


class FolderError(PlglError):
    """An output folder is not ours, or holds a run with other settings."""

    exit_code = 2


class ItemError(PlglError, LookupError):
    """An item was never shown, or is rated already."""

    exit_code = 2


class StoreError(PlglError):
    """An encrypted store cannot be used."""


class WrongKey(StoreError):
    """Wrong passphrase, or a key that is not in the keyring."""


class DamagedStore(StoreError):
    """Rows were altered, swapped or lost, or the file is no store."""


class NewerStore(StoreError):
    """A store written by a newer version of this program."""


class StoreInUse(StoreError):
    """Another process has the store open."""


class KeyringError(StoreError):
    """The system keyring is locked or missing."""


class StorageError(PlglError):
    """The disk refused a write."""


class Interrupted(PlglError):
    """Stopped on request; what is finished is kept, and the same command goes on from there."""

    exit_code = 3
