from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Extent(_message.Message):
    __slots__ = ("start_block", "num_blocks")
    START_BLOCK_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    start_block: int
    num_blocks: int
    def __init__(self, start_block: _Optional[int] = ..., num_blocks: _Optional[int] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("version", "data", "unpadded_signature_size")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    UNPADDED_SIGNATURE_SIZE_FIELD_NUMBER: _ClassVar[int]
    version: int
    data: bytes
    unpadded_signature_size: int
    def __init__(self, version: _Optional[int] = ..., data: _Optional[bytes] = ..., unpadded_signature_size: _Optional[int] = ...) -> None: ...

class Signatures(_message.Message):
    __slots__ = ("signatures",)
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signatures: _containers.RepeatedCompositeFieldContainer[Signature]
    def __init__(self, signatures: _Optional[_Iterable[_Union[Signature, _Mapping]]] = ...) -> None: ...

class ImageInfo(_message.Message):
    __slots__ = ("size", "hash")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    size: int
    hash: bytes
    def __init__(self, size: _Optional[int] = ..., hash: _Optional[bytes] = ...) -> None: ...

class InstallOperation(_message.Message):
    __slots__ = ("type", "data_offset", "data_length", "src_extents", "src_length", "dst_extents", "dst_length", "data_sha256_hash", "src_sha256_hash")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SRC_EXTENTS_FIELD_NUMBER: _ClassVar[int]
    SRC_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DST_EXTENTS_FIELD_NUMBER: _ClassVar[int]
    DST_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DATA_SHA256_HASH_FIELD_NUMBER: _ClassVar[int]
    SRC_SHA256_HASH_FIELD_NUMBER: _ClassVar[int]
    type: int
    data_offset: int
    data_length: int
    src_extents: _containers.RepeatedCompositeFieldContainer[Extent]
    src_length: int
    dst_extents: _containers.RepeatedCompositeFieldContainer[Extent]
    dst_length: int
    data_sha256_hash: bytes
    src_sha256_hash: bytes
    def __init__(self, type: _Optional[int] = ..., data_offset: _Optional[int] = ..., data_length: _Optional[int] = ..., src_extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., src_length: _Optional[int] = ..., dst_extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., dst_length: _Optional[int] = ..., data_sha256_hash: _Optional[bytes] = ..., src_sha256_hash: _Optional[bytes] = ...) -> None: ...

class InstallProcedure(_message.Message):
    __slots__ = ("type", "operations", "old_info", "new_info")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    OLD_INFO_FIELD_NUMBER: _ClassVar[int]
    NEW_INFO_FIELD_NUMBER: _ClassVar[int]
    type: int
    operations: _containers.RepeatedCompositeFieldContainer[InstallOperation]
    old_info: ImageInfo
    new_info: ImageInfo
    def __init__(self, type: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[InstallOperation, _Mapping]]] = ..., old_info: _Optional[_Union[ImageInfo, _Mapping]] = ..., new_info: _Optional[_Union[ImageInfo, _Mapping]] = ...) -> None: ...

class PartitionUpdate(_message.Message):
    __slots__ = ("partition_name", "run_postinstall", "old_partition_info", "new_partition_info", "operations")
    PARTITION_NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_POSTINSTALL_FIELD_NUMBER: _ClassVar[int]
    OLD_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    NEW_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    partition_name: str
    run_postinstall: bool
    old_partition_info: ImageInfo
    new_partition_info: ImageInfo
    operations: _containers.RepeatedCompositeFieldContainer[InstallOperation]
    def __init__(self, partition_name: _Optional[str] = ..., run_postinstall: _Optional[bool] = ..., old_partition_info: _Optional[_Union[ImageInfo, _Mapping]] = ..., new_partition_info: _Optional[_Union[ImageInfo, _Mapping]] = ..., operations: _Optional[_Iterable[_Union[InstallOperation, _Mapping]]] = ...) -> None: ...

class Package(_message.Message):
    __slots__ = ("name", "size", "sha256", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    kind: str
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., kind: _Optional[str] = ...) -> None: ...

class DeltaArchiveManifest(_message.Message):
    __slots__ = ("partition_operations", "noop_operations", "block_size", "signatures_offset", "signatures_size", "old_partition_info", "new_partition_info", "procedures", "minor_version", "partitions", "max_timestamp", "product", "channels", "version", "rollback_index", "not_after", "packages", "root_hash")
    PARTITION_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    NOOP_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_SIZE_FIELD_NUMBER: _ClassVar[int]
    OLD_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    NEW_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    PROCEDURES_FIELD_NUMBER: _ClassVar[int]
    MINOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_INDEX_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    ROOT_HASH_FIELD_NUMBER: _ClassVar[int]
    partition_operations: _containers.RepeatedCompositeFieldContainer[InstallOperation]
    noop_operations: _containers.RepeatedCompositeFieldContainer[InstallOperation]
    block_size: int
    signatures_offset: int
    signatures_size: int
    old_partition_info: ImageInfo
    new_partition_info: ImageInfo
    procedures: _containers.RepeatedCompositeFieldContainer[InstallProcedure]
    minor_version: int
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionUpdate]
    max_timestamp: int
    product: str
    channels: _containers.RepeatedScalarFieldContainer[str]
    version: str
    rollback_index: int
    not_after: int
    packages: _containers.RepeatedCompositeFieldContainer[Package]
    root_hash: str
    def __init__(self, partition_operations: _Optional[_Iterable[_Union[InstallOperation, _Mapping]]] = ..., noop_operations: _Optional[_Iterable[_Union[InstallOperation, _Mapping]]] = ..., block_size: _Optional[int] = ..., signatures_offset: _Optional[int] = ..., signatures_size: _Optional[int] = ..., old_partition_info: _Optional[_Union[ImageInfo, _Mapping]] = ..., new_partition_info: _Optional[_Union[ImageInfo, _Mapping]] = ..., procedures: _Optional[_Iterable[_Union[InstallProcedure, _Mapping]]] = ..., minor_version: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[PartitionUpdate, _Mapping]]] = ..., max_timestamp: _Optional[int] = ..., product: _Optional[str] = ..., channels: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., rollback_index: _Optional[int] = ..., not_after: _Optional[int] = ..., packages: _Optional[_Iterable[_Union[Package, _Mapping]]] = ..., root_hash: _Optional[str] = ...) -> None: ...
