"""The light client: a farm's API for artists and tools. Needs nothing of the server or of Blender.

from framefarm.client import Credentials, Farm, jobs

login = Credentials().login()
with Farm(login.url, login.token) as farm:
    for job in jobs.find(farm, status="running"):
        print(job["id"], job["job_title"])
"""

from framefarm.client.credentials import Credentials, Login
from framefarm.client.errors import (
    FarmError,
    Incomplete,
    LocalProblem,
    LoginNeeded,
    NotLoggedIn,
    Refused,
    Unreachable,
)
from framefarm.client.http import Farm

__all__ = [
    "Credentials",
    "Farm",
    "FarmError",
    "Incomplete",
    "LocalProblem",
    "Login",
    "LoginNeeded",
    "NotLoggedIn",
    "Refused",
    "Unreachable",
]
