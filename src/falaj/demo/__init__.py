"""The main job on real data, end to end: will a flight from New York leave late?

``flights_data`` finds the files and says in SQL what is derived from them, ``definitions``
holds the declarations as a user would write them, ``replay`` lets October to December
happen again, ``story`` tells it in the terminal.
"""
