"""Client of a farm's API for artists and tools. Requires neither the server's packages nor Blender.

Example:

from framefarm.client import Client, Credentials, jobs

login = Credentials().login()
with Client(login.url, login.token) as client:
    for job in jobs.find(client, status="running"):
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
from framefarm.client.http import Client

__all__ = [
    "Client",
    "Credentials",
    "FarmError",
    "Incomplete",
    "LocalProblem",
    "Login",
    "LoginNeeded",
    "NotLoggedIn",
    "Refused",
    "Unreachable",
]
