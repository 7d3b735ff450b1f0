from tests.interchange.conftest import made as made
from tests.score.conftest import make_sae as make_sae
from tests.score.conftest import store_rows as store_rows
