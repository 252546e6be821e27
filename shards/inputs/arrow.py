"""Arrow columns of every kind that tables come with -> text, numbers and lists.

One decision: what a column is, is decided by its plain type, without extension (JSON as DuckDB writes it, ...), dictionary
(categories of pandas and Polars) and run-end encoding; text may be string, large_string, string_view, or bytes that are UTF-8.
Lists are taken apart by their lengths and values and never cast, because pyarrow 26 loses values when it casts a list_view.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VIEWS = hasattr(pa, "string_view")
"""Whether this pyarrow has the types of views; before 16 it has not, and reads what others wrote as plain types."""


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """The type of a column's values, however they are stored."""
    while True:
        if isinstance(dtype, pa.BaseExtensionType):
            dtype = dtype.storage_type
        elif pa.types.is_dictionary(dtype) or pa.types.is_run_end_encoded(dtype):
            dtype = dtype.value_type
        else:
            return dtype


def plain(array: pa.Array) -> pa.Array:
    """The same values as an array of the plain type; text becomes large_string. Raises ArrowInvalid for no UTF-8."""
    while array.type != (dtype := plain_type(array.type)):
        if isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(array.type):
            # values first: dictionaries of views cannot be decoded
            array = pa.DictionaryArray.from_arrays(array.indices, plain(array.dictionary)).dictionary_decode()
        else:
            array = pc.run_end_decode(array)
    return array.cast(pa.large_string()) if is_text(dtype) else array


def is_text(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds text, or bytes that may be text."""
    dtype = plain_type(dtype)
    kinds = [pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary]
    if VIEWS:
        kinds += [pa.types.is_string_view, pa.types.is_binary_view]
    return any(is_kind(dtype) for is_kind in kinds)


def is_number(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds numbers, true and false among them, or nothing but nulls."""
    dtype = plain_type(dtype)
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null, pa.types.is_boolean, pa.types.is_decimal)
    return any(is_kind(dtype) for is_kind in kinds)


def is_number_list(dtype: pa.DataType) -> bool:
    """Whether a column of this type holds lists of numbers."""
    dtype = plain_type(dtype)
    kinds = [pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list]
    if VIEWS:
        kinds += [pa.types.is_list_view, pa.types.is_large_list_view]
    return any(is_kind(dtype) for is_kind in kinds) and is_number(dtype.value_type)


def to_texts(array: pa.Array) -> list[str | None]:
    """Text or whole numbers as Python's text."""
    return plain(array).cast(pa.large_string()).to_pylist()


def to_lists(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """A column of lists as all their values, one after another, and the length of each list (int64), 0 for a null."""
    array = plain(array)
    if pa.types.is_null(array.type):
        return pa.nulls(0, pa.float32()), np.zeros(len(array), np.int64)
    sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return plain(array.flatten()), sizes
