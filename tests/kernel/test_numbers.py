"""Numbers without a word in JSON keep their meaning through text."""

import json
import math

from pydantic import TypeAdapter
from sqlalchemy import Column, Integer, MetaData, Table, insert, select

from falaj.kernel.database import Json
from falaj.kernel.numbers import finite, written

READ = TypeAdapter(float)


def test_what_is_written_is_strict_json_and_reads_as_the_same_number():
    for number in (0.0, -1.5, math.inf, -math.inf, math.nan):
        text = json.dumps(written(number), allow_nan=False)
        back = READ.validate_json(text)
        assert back == number or (math.isnan(back) and math.isnan(number))


def test_a_document_keeps_its_shape_and_all_that_json_has_words_for():
    document = {"a": [1, 2.5, None, True, "x"], "b": {"c": (math.nan,)}}
    assert finite(document) == {"a": [1, 2.5, None, True, "x"], "b": {"c": ["NaN"]}}


def test_a_column_of_json_takes_what_is_no_number_on_every_database(database):
    table = Table("odd_numbers", MetaData(), Column("id", Integer), Column("document", Json))
    with database.transaction() as connection:
        table.create(connection)
        connection.execute(insert(table).values(id=1, document={"a": math.inf, "b": [math.nan]}))
        kept = connection.execute(select(table.c.document)).scalar_one()
    assert kept == {"a": "Infinity", "b": ["NaN"]}
